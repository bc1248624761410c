// The generations: one problem with its responses, and the address of the page, which remembers what is shown.

// ── shading ─────────────────────────────────────────────────────────────────────────────────────────────────────────

// The value that a digit stands for; see digit_of in reading.py.
function nats(digit) {
  return 2 ** (generations.digits.indexOf(digit) / generations.octave) - 1;
}

function valuesOf({ tokens }) {
  return tokens ? Array.from(view.chosen.shade === "entropy" ? tokens[1] : tokens[2], nats) : [];
}

// The top of the scale: 95 % of the tokens that are shown lie below it. One scale for all that stand beside each other.
function scaleOf(responses) {
  const values = responses.flatMap(valuesOf).sort((a, b) => a - b);
  return Math.max(0.1, values[Math.ceil(0.95 * values.length) - 1] ?? 0);
}

// How strong the shade of a value is, of 0 to 1. By its root: a model that is nearly sure has shades too.
function shadeOf(value, top) {
  return Math.sqrt(Math.min(1, value / top));
}

function shaded(response, top) {
  const { text, tokens } = response;
  if (!view.chosen.shade || !tokens) return [text];
  const counts = tokens[0], values = valuesOf(response);
  const letters = Array.from(text); // full characters, as they were counted, and not UTF-16 units
  const made = [];
  let start = 0;
  for (let index = 0; index < values.length; index += 1) {
    const size = typeof counts === "string" ? generations.digits.indexOf(counts[index]) : counts[index];
    if (!size) continue;
    const style = `--shade:${shadeOf(values[index], top).toFixed(2)}`;
    const token = letters.slice(start, start + size).join("");
    made.push(element("span", { class: "shade", style, title: `${values[index].toFixed(2)} nats` }, token));
    start += size;
  }
  if (start < letters.length) made.push(letters.slice(start).join(""));
  return made;
}

function legend(top) {
  if (!view.chosen.shade) return null;
  const what = view.chosen.shade === "nll" ? "negative log-likelihood" : "entropy";
  const said = (value) => element("span", {}, value.toFixed(2)); // the ramp's middle is a quarter of its top: shades go by the root
  const ramp = element("span", { class: "ramp" });
  return element("div", { class: "legend" },
    element("span", { class: "scale" }, ramp, element("span", { class: "ticks" }, said(0), said(top / 4), said(top))),
    `nats of ${what} of each token; 95 % of those shown are below ${top.toFixed(2)}`);
}

// ── one problem ─────────────────────────────────────────────────────────────────────────────────────────────────────

function responseAt(problem, stepIndex) {
  const responses = problem.responses[stepIndex];
  return responses && responses[Math.min(view.chosen.sample, responses.length - 1)];
}

function card(problem, stepIndex, top) {
  const label = generations.labels[stepIndex];
  const response = responseAt(problem, stepIndex);
  const { outcome, answer, length, entropy, tokens } = response;
  const unknown = view.chosen.shade && !tokens;
  return element("section", { class: "response", "aria-label": `Response at ${label}` },
    element("h4", {}, `${label} `, mark(outcome)),
    element("dl", { class: "pair" },
      element("dt", {}, "answer"), element("dd", {}, answer || "–"),
      element("dt", {}, "reference"), element("dd", {}, problem.reference || "–")),
    element("pre", { "aria-label": "response", role: "group" }, ...shaded(response, top)),
    unknown ? element("p", { class: "hint" }, "The tokens of this response were not logged.") : null,
    element("p", { class: "hint" }, `${length} tokens${entropy === null ? "" : `, mean entropy ${entropy} nats`}`));
}

// The evaluations whose responses are shown: the chosen one beside the first, or all that asked the problem.
function stepsShown(problem) {
  const asked = [...problem.responses.keys()].filter((index) => problem.responses[index] !== null);
  return view.chosen.beside === "all" ? asked : asked.filter((index) => index === firstAsked(problem) || index === chosenStep());
}

function stepButton(problem, index) {
  const responses = problem.responses[index];
  if (!responses) return null;
  const step = generations.steps[index];
  const attributes = {
    type: "button", "data-key": `step-${step}`, "aria-pressed": String(step === view.chosen.step),
    onclick: () => change({ step }),
  };
  const outcome = outcomeOf(responses);
  const label = element("span", { class: "hidden" }, outcome);
  return element("button", attributes, `${generations.labels[index]} `, mark(outcome, false), label);
}

function sampleChoice(problem) {
  const samples = Math.max(...problem.responses.map((responses) => responses?.length ?? 0));
  if (samples < 2) return null;
  const options = Array.from({ length: samples }, (_, index) =>
    element("option", { value: index, selected: index === view.chosen.sample }, `${index + 1} of ${samples}`));
  const onchange = (event) => change({ sample: Number(event.target.value) });
  return element("label", {}, "sample ", element("select", { "data-key": "sample", onchange }, ...options));
}

function navigation(problem) {
  const listIndex = view.listed.indexOf(view.chosen.problem);
  const beside = (index, label) => element("button", {
    type: "button", "data-key": label, disabled: index < 0 || index >= view.listed.length,
    onclick: () => open(view.listed[index]),
  }, label);
  return element("div", { class: "steps" },
    ...generations.steps.map((_, index) => stepButton(problem, index)),
    sampleChoice(problem),
    beside(listIndex - 1, "‹ previous"),
    beside(listIndex + 1, "next ›"));
}

function detail() {
  const problem = generations.problems[view.chosen.problem];
  if (!problem) {
    replace(byId("problem"), element("p", { class: "hint" }, "No problem is open."));
    return;
  }
  const steps = stepsShown(problem);
  const top = view.chosen.shade ? scaleOf(steps.map((step) => responseAt(problem, step))) : 0;
  const parts = [
    element("h3", { "aria-live": "polite" }, `Problem ${generations.start + view.chosen.problem + 1}`),
    element("pre", { class: "question" }, problem.question), navigation(problem), legend(top),
    element("div", { class: "responses" }, ...steps.map((step) => card(problem, step, top))),
  ];
  replace(byId("problem"), ...parts.filter(Boolean));
  for (const text of byId("problem").querySelectorAll("pre")) reachIfScrolled(text);
}

// ── the address, and what changes it ────────────────────────────────────────────────────────────────────────────────

function remember(push) {
  const { problem, step, show, search, shade, sample, beside } = view.chosen;
  const number = problem === null ? "" : generations.start + problem + 1;
  const values = Object.entries({ problem: number, step, show, search, shade, sample: sample || "", beside });
  const usual = { show: "all", beside: generations.beside };
  const hash = "#" + new URLSearchParams(values.filter(([key, value]) => value !== "" && value !== usual[key]));
  if (hash !== location.hash) history[push ? "pushState" : "replaceState"](null, "", hash);
}

// Choose what the address says; what it cannot mean is as if it were not there. Whether it is of generations at all.
function recall() {
  const values = new URLSearchParams(location.hash.slice(1));
  const step = generations.steps.at(-1);
  const chosen = { problem: null, step, show: "all", search: "", shade: "", sample: 0, beside: generations.beside };
  view.chosen = chosen;
  if (!values.has("step")) return false;
  const wanted = Number(values.get("step"));
  const sample = Number(values.get("sample") ?? 0);
  const index = Number(values.get("problem") ?? 0) - 1; // over all parts
  if (generations.steps.includes(wanted)) chosen.step = wanted;
  if (Number.isInteger(sample) && sample >= 0) chosen.sample = sample;
  if (shows().includes(values.get("show"))) chosen.show = values.get("show");
  if (["entropy", "nll"].includes(values.get("shade"))) chosen.shade = values.get("shade");
  if (["all", "first"].includes(values.get("beside"))) chosen.beside = values.get("beside");
  chosen.search = values.get("search") ?? "";
  if (generations.problems[index - generations.start]) chosen.problem = index - generations.start;
  else goToPartOf(index);
  return true;
}

function goToPartOf(index) {
  const part = generations.parts.find((each) => index >= each.start && index < each.start + each.problems);
  if (part && !part.this) location.replace(part.name + location.hash);
}

// A problem is open whenever there is one: the first that fits, and of all the one that tells most.
function openSome() {
  const isNarrowed = view.chosen.show !== "all" || view.chosen.search.trim() !== "";
  view.chosen.problem = isNarrowed ? view.listed[0] ?? null : mostTelling();
}

function display() {
  for (const name of ["step", "show", "search", "shade"]) byId(name).value = view.chosen[name];
  byId("beside").checked = view.chosen.beside === "all";
  countOptions();
  choose();
  if (view.chosen.problem === null) { openSome(); showPortionOf(view.chosen.problem); }
  list();
  detail();
}

function change(values, push = false) {
  Object.assign(view.chosen, values);
  for (const name of ["step", "show"]) byId(name).value = view.chosen[name];
  if (byId("search").value !== view.chosen.search && "search" in values) byId("search").value = view.chosen.search;
  if ("step" in values) countOptions();
  const narrows = "show" in values || "search" in values;
  if ("step" in values || narrows) {
    choose();
    if (narrows && !view.listed.includes(view.chosen.problem)) { openSome(); showPortionOf(view.chosen.problem); }
    list();
  } else if ("problem" in values) markCurrent();
  detail();
  remember(push);
}

function isNarrow() {
  return matchMedia("(max-width: 46rem)").matches;
}

function open(index) {
  change({ problem: index }, true);
  if (view.listed.indexOf(index) >= view.portion) { choose(); list(); }
  if (isNarrow()) byId("problem").focus();
}

function browse() {
  byId("browser").hidden = false;
  byId("step").append(...generations.steps.map((step, index) => element("option", { value: step }, generations.labels[index])));
  byId("show").append(...shows().map((name) => element("option", { value: name }, name)));
  const linked = recall();
  display();
  if (linked && arrivedBy("navigate")) byId(isNarrow() ? "problem" : "generations").scrollIntoView({ behavior: "instant" });
  let typing = 0;
  byId("step").addEventListener("change", (event) => change({ step: Number(event.target.value) }));
  byId("show").addEventListener("change", (event) => change({ show: event.target.value }));
  byId("shade").addEventListener("change", (event) => change({ shade: event.target.value }));
  byId("beside").addEventListener("change", (event) => change({ beside: event.target.checked ? "all" : "first" }));
  byId("search").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ search: event.target.value }), 150);
  });
  byId("problems").addEventListener("keydown", followArrows);
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", () => { if (!location.hash || location.hash.includes("step=")) { recall(); display(); } });
}
