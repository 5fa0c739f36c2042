"use strict";
// Shows the gallery's samples that match the selects. Without this script every sample is shown.
const filters = document.getElementById("filters");
const [benchmark, task, outcome] = ["benchmark", "task", "outcome"].map((name) => filters.elements[name]);
const samples = [...document.querySelectorAll(".sample")];

function apply() {
  for (const group of task.querySelectorAll("optgroup")) {
    group.hidden = group.disabled = benchmark.value !== "" && group.label !== benchmark.value;
  }
  if (task.selectedOptions[0].parentElement.disabled) task.value = "";
  let shown = 0;
  for (const sample of samples) {
    const { benchmark: itsBenchmark, task: itsTask, outcome: itsOutcome } = sample.dataset;
    sample.hidden =
      (benchmark.value !== "" && benchmark.value !== itsBenchmark) ||
      (task.value !== "" && task.value !== itsTask) ||
      (outcome.value !== "" && outcome.value !== itsOutcome);
    if (!sample.hidden) shown += 1;
  }
  document.getElementById("shown").textContent = `${shown} of ${samples.length} samples`;
  document.getElementById("no-match").hidden = shown > 0;
}

filters.addEventListener("change", apply);
filters.addEventListener("reset", () => setTimeout(apply));
filters.addEventListener("submit", (event) => event.preventDefault());
filters.hidden = false;
apply();
