"use strict";
// Rollouts: one step at a time, chosen by a slider. Without this script every step opens by itself.
const slider = document.getElementById("steps");
const steps = [...document.querySelectorAll("#rollouts .step")];

function showStep() {
  const at = Number(slider.elements.step.value);
  steps.forEach((node, number) => {
    node.hidden = number !== at;
    node.open = number === at;
  });
  const words = steps[at].querySelector("summary").textContent;
  slider.elements.label.value = words;
  slider.elements.step.setAttribute("aria-valuetext", words);
}

slider.addEventListener("input", showStep);
slider.addEventListener("submit", (event) => event.preventDefault());
slider.reset(); // a reloaded page keeps the old value
slider.hidden = false;
document.body.classList.add("scripted");
showStep();
