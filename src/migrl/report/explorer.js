"use strict";
// The sample explorer: filters, pages and keys. Its state lies in the address, #samples?benchmark=..&task=..,
// so that a link opens the same view. Without this script every sample is shown, and the links still lead to one.
const PAGE = 20;
const KEYS = ["benchmark", "task", "outcome", "arm", "result", "status", "q"];
const form = document.getElementById("filters");
const section = document.getElementById("samples");
const fields = new Map(KEYS.map((key) => [key, form.elements[key]]).filter(([, field]) => field));
const samples = [...document.querySelectorAll(".sample")].map((node) => ({
  node,
  data: node.dataset,
  replies: JSON.parse(node.dataset.replies),
  text: `${node.querySelector(".uid").textContent}\n${node.querySelector(".question").textContent}`.toLowerCase(),
}));
const claims = [...document.querySelectorAll(".claim")];
// How many samples of each task and outcome were evaluated, in this file or not.
const cells = [...section.querySelectorAll("tr[data-counts]")].map(({ dataset }) => ({
  data: dataset,
  counts: Object.entries(JSON.parse(dataset.counts)),
}));
let found = samples;
let page = 0;

const read = (key) => (fields.has(key) ? fields.get(key).value : "");

function matches({ data, replies, text }) {
  const [arm, result, status, words] = ["arm", "result", "status", "q"].map(read);
  return (
    ["benchmark", "task", "outcome"].every((key) => read(key) === "" || read(key) === data[key]) &&
    (words === "" || text.includes(words.trim().toLowerCase())) &&
    replies.some(
      ([itsArm, itsResult, itsStatus]) =>
        (arm === "" || arm === itsArm) && (result === "" || result === itsResult) && (status === "" || status === itsStatus),
    )
  );
}

// Of what every sample's place alone decides, all are known; of the rest, only those in this file.
function count(range) {
  if (["arm", "result", "status", "q"].some((key) => read(key) !== "")) {
    return `${found.length} of the ${samples.length} samples in this file${range}`;
  }
  let all = 0;
  for (const { data, counts } of cells) {
    if (!["benchmark", "task"].every((key) => read(key) === "" || read(key) === data[key])) continue;
    for (const [outcome, number] of counts) if (["", outcome].includes(read("outcome"))) all += number;
  }
  return `${found.length} shown of ${all}${range}${found.length < all ? "; the rest are in samples.jsonl.gz" : ""}`;
}

function show() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const visible = new Set(found.slice(page * PAGE, (page + 1) * PAGE));
  for (const sample of samples) sample.node.hidden = !visible.has(sample);
  const range = found.length > PAGE ? `, here ${page * PAGE + 1} to ${page * PAGE + visible.size}` : "";
  document.getElementById("shown").textContent = count(range);
  document.getElementById("no-match").hidden = found.length > 0;
  for (const label of document.querySelectorAll(".page")) label.textContent = `page ${page + 1} of ${pages}`;
  for (const button of document.querySelectorAll("[data-turn]")) {
    button.disabled = page + Number(button.dataset.turn) < 0 || page + Number(button.dataset.turn) >= pages;
  }
  for (const turn of document.querySelectorAll(".turn")) turn.hidden = pages === 1;
}

function search() {
  const group = fields.get("benchmark").value;
  for (const options of fields.get("task").querySelectorAll("optgroup")) {
    options.hidden = options.disabled = group !== "" && options.label !== group;
  }
  found = samples.filter(matches);
}

function clear() {
  for (const field of fields.values()) field.value = "";
}

function describe() {
  const state = new URLSearchParams();
  for (const [key, field] of fields) if (field.value !== "") state.set(key, field.value);
  if (page > 0) state.set("page", String(page + 1));
  return state.size ? `#samples?${state}` : "#samples";
}

function update(newPage = 0) {
  search();
  page = newPage;
  show();
  history.replaceState(null, "", describe());
}

// A task belongs to a benchmark: choosing one sets the other, and another benchmark lets it go.
function pickTask(task, benchmark) {
  const field = fields.get("task");
  const options = [...field.options].filter((option) => option.value === task);
  const option = options.find((one) => !benchmark || one.parentElement.label === benchmark);
  field.selectedIndex = option ? option.index : 0;
  if (option && task !== "") fields.get("benchmark").value = option.parentElement.label;
}

function openClaim(address) {
  const claim = claims.find(({ id }) => `#${id}` === address);
  if (!claim) return;
  claim.open = true;
  claim.scrollIntoView();
}

function readAddress() {
  const address = location.hash;
  openClaim(address);
  const target = samples.find(({ node }) => `#${node.id}` === address);
  if (target) {
    if (!found.includes(target)) {
      clear();
      search();
    }
    page = Math.floor(found.indexOf(target) / PAGE);
    show();
    target.node.scrollIntoView();
    target.node.focus({ preventScroll: true });
  } else if (address.startsWith("#samples?")) {
    const state = new URLSearchParams(address.slice("#samples?".length));
    clear();
    for (const [key, field] of fields) {
      if (key === "task") continue;
      field.value = state.get(key) ?? "";
      if (field.selectedIndex === -1) field.selectedIndex = 0; // a value that this file does not have
    }
    pickTask(state.get("task") ?? "", fields.get("benchmark").value);
    search();
    page = (Number.parseInt(state.get("page") ?? "1", 10) || 1) - 1;
    show();
    section.scrollIntoView();
    document.getElementById("samples-title").focus({ preventScroll: true });
  }
}

function step(by) {
  const focused = document.activeElement.closest(".sample");
  const at = found.findIndex(({ node }) => node === focused);
  const next = at < 0 ? page * PAGE : Math.min(Math.max(at + by, 0), found.length - 1);
  if (!found[next]) return;
  if (Math.floor(next / PAGE) !== page) update(Math.floor(next / PAGE));
  found[next].node.focus();
  found[next].node.scrollIntoView({ block: "nearest" });
}

form.addEventListener("input", ({ target }) => {
  if (target === fields.get("task")) pickTask(target.value, target.selectedOptions[0].parentElement.label);
  if (target === fields.get("benchmark")) pickTask("", "");
  update();
});
form.addEventListener("reset", () => setTimeout(update));
form.addEventListener("submit", (event) => event.preventDefault());
for (const button of document.querySelectorAll("[data-turn]")) {
  button.addEventListener("click", () => {
    update(page + Number(button.dataset.turn));
    form.scrollIntoView();
  });
}
section.addEventListener("keydown", (event) => {
  const by = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 }[event.key];
  if (!by || !event.target.closest(".sample") || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  step(by);
});
addEventListener("hashchange", readAddress);
addEventListener("click", ({ target }) => openClaim(target.closest("a")?.hash)); // also where the address stays the same
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("#verdicts details")) details.open = true;
});

for (const control of section.querySelectorAll("#filters, .pager, .keys")) control.hidden = false;
document.body.classList.add("scripted");
clear(); // a reloaded page keeps old values in its fields; the address decides
search();
show();
readAddress();
