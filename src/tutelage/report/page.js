"use strict";
// All that comes from data is set as text, never as markup.

async function unpack(id) {
  const letters = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(letters.length);
  // `Uint8Array.from` takes thirty times as long
  for (let index = 0; index < letters.length; index += 1) bytes[index] = letters.charCodeAt(index);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

// ── curves ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const curves = {
  figures: [],
  steps: null, // the range of steps in all curves over steps, those that are not drawn yet too
  following: false, // whether curves are being zoomed because another one was
};
const PLOT_OPTIONS = { responsive: true, displayModeBar: false };

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function layoutOf(figure) {
  const line = colour("--line"), ink = colour("--ink");
  const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true };
  const layout = structuredClone(figure.layout);
  const zoomed = figure.linked && curves.steps ? { range: curves.steps } : {};
  return {
    ...layout,
    xaxis: { ...axis, ...layout.xaxis, ...zoomed },
    yaxis: { ...axis, ...layout.yaxis },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 12 },
    hoverlabel: { bgcolor: colour("--paper"), bordercolor: line, font: { color: ink } },
    margin: { l: 50, r: 12, t: 18, b: 42 },
    hovermode: figure.linked ? "x unified" : "closest",
    showlegend: figure.data.filter((trace) => trace.showlegend !== false).length > 1,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
  };
}

function plotOf(figure) {
  return byId("figure-" + figure.name);
}

function linkZoom(figure) {
  plotOf(figure).on("plotly_relayout", (change) => {
    if (curves.following || !figure.linked) return;
    const [start, end] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    const steps = change["xaxis.range"] ?? (start === undefined ? null : [start, end]);
    if (steps || change["xaxis.autorange"]) zoom(steps, figure);
  });
}

async function zoom(steps, but = null) {
  curves.steps = steps;
  curves.following = true;
  const update = steps ? { "xaxis.range": steps } : { "xaxis.autorange": true, "yaxis.autorange": true };
  const others = curves.figures.filter((figure) => figure.linked && figure !== but).map(plotOf).filter((plot) => plot.data);
  try {
    await Promise.all(others.map((plot) => Plotly.relayout(plot, structuredClone(update))));
  } finally {
    curves.following = false;
  }
}

async function drawCurves() {
  if (!curves.figures.length) return;
  const source = URL.createObjectURL(new Blob([await unpack("plotly")], { type: "text/javascript" }));
  await new Promise((onload, onerror) => document.head.append(element("script", { src: source, onload, onerror })));
  const inSight = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      inSight.unobserve(target);
      const figure = curves.figures.find((each) => plotOf(each) === target);
      Plotly.newPlot(target, figure.data, layoutOf(figure), PLOT_OPTIONS).then(() => linkZoom(figure));
    }
  }, { rootMargin: "400px" });
  for (const figure of curves.figures) inSight.observe(plotOf(figure));
  byId("unzoom")?.addEventListener("click", () => zoom(null));
}

function redrawCurves() {
  for (const figure of curves.figures) {
    if (plotOf(figure).data) Plotly.react(plotOf(figure), figure.data, layoutOf(figure), PLOT_OPTIONS);
  }
}

// A page from a file may have no storage: then nothing is kept.
function keep(storage, key, value) {
  try { window[storage].setItem(key, value); } catch { /* as above */ }
}

function kept(storage, key) {
  try { return window[storage].getItem(key); } catch { return null; }
}

function followTheme() {
  const root = document.documentElement;
  const stored = kept("localStorage", "tutelage-theme");
  if (stored) root.dataset.theme = stored;
  byId("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    keep("localStorage", "tutelage-theme", root.dataset.theme);
    redrawCurves();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCurves);
}

// ── generations: the data ───────────────────────────────────────────────────────────────────────────────────────────

let generations = null;

function unpackResponse([text, outcome, answer, length, entropy, tokens]) {
  return { text, outcome: generations.outcomes[outcome], answer, length, entropy, tokens };
}

// `responses` has an entry for each evaluation: the responses, one a sample, or null where the problem was not asked.
function unpackProblem({ q, r, a }) {
  return { question: q, reference: r, responses: a.map((rows) => rows && rows.map(unpackResponse)) };
}

function firstAsked(problem) {
  return problem.responses.findIndex((responses) => responses !== null);
}

function isSolved(responses) {
  return responses.filter((response) => response.outcome === "right").length * 2 >= responses.length;
}

function outcomeOf(responses) {
  return isSolved(responses) ? "right" : responses.find((response) => response.outcome !== "right").outcome;
}

function outcomeClass(outcome) {
  return outcome.replace(" ", "-");
}

// The value that a digit stands for; see digit_of in reading.py.
function nats(digit) {
  return 2 ** (generations.digits.indexOf(digit) / generations.octave) - 1;
}

// ── generations: what is chosen, and the list ───────────────────────────────────────────────────────────────────────

const PORTION = 100;
const view = {
  chosen: null, // what the address says: problem (an index, or null), step, show, search, shade, sample
  listed: [], // indices of the problems that fit
  portion: PORTION, // so many of them are in the list
};

// The index of the evaluation that is chosen.
function chosenStep() {
  return generations.steps.indexOf(view.chosen.step);
}

function shows() {
  return ["all", "gained", "lost", ...generations.outcomes];
}

function fits(problem, show, step) {
  const responses = problem.responses[step];
  if (!responses) return false;
  if (show === "all") return true;
  if (show === "gained" || show === "lost") {
    const first = firstAsked(problem);
    if (first === step) return false;
    return isSolved(responses) === (show === "gained") && isSolved(problem.responses[first]) === (show === "lost");
  }
  return responses.some((response) => response.outcome === show);
}

function contains(problem, step, wanted) {
  const texts = [problem.question, problem.reference, ...problem.responses[step].map((response) => response.text)];
  return texts.some((text) => text.toLowerCase().includes(wanted));
}

function choose() {
  const step = chosenStep();
  const wanted = view.chosen.search.trim().toLowerCase();
  const indices = [...generations.problems.keys()];
  view.listed = indices.filter((index) => {
    const problem = generations.problems[index];
    return fits(problem, view.chosen.show, step) && (!wanted || contains(problem, step, wanted));
  });
  const listIndex = view.listed.indexOf(view.chosen.problem);
  view.portion = Math.max(PORTION, Math.ceil((listIndex + 1) / PORTION) * PORTION); // the chosen one is in sight
}

function marks(problem) {
  const signs = { right: "●", wrong: "○", "cut off": "◐", malformed: "✕" };
  const made = element("span", { class: "dots", "aria-hidden": "true" });
  for (const responses of problem.responses) {
    const outcome = responses && outcomeOf(responses);
    made.append(responses ? element("span", { class: outcomeClass(outcome) }, signs[outcome]) : "·");
  }
  return made;
}

function countOptions() {
  const step = chosenStep();
  for (const option of byId("show").options) {
    const count = generations.problems.filter((problem) => fits(problem, option.value, step)).length;
    option.textContent = `${option.value} (${count})`;
  }
}

function entry(index) {
  const problem = generations.problems[index];
  const outcome = outcomeOf(problem.responses[chosenStep()]);
  const number = `${generations.start + index + 1} · `;
  const meta = element("span", { class: "meta" },
    number, marks(problem), " ", element("span", { class: outcomeClass(outcome) }, outcome));
  const attributes = {
    type: "button", "data-key": index, "data-problem": index, "aria-current": String(index === view.chosen.problem),
    onclick: () => open(index),
  };
  return element("li", {}, element("button", attributes, element("span", { class: "text" }, problem.question), meta));
}

function list() {
  const entries = view.listed.slice(0, view.portion).map(entry);
  const left = view.listed.length - view.portion;
  if (left > 0) {
    const label = `show ${Math.min(PORTION, left)} more`;
    entries.push(element("li", {}, element("button", { type: "button", onclick: more }, label)));
  }
  replace(byId("problems"), ...entries);
  const inAll = generations.parts.reduce((sum, part) => sum + part.problems, 0);
  const ofAll = generations.parts.length > 1 ? ` on this page (of ${inAll} in all)` : "";
  byId("count").textContent = `${view.listed.length} of ${generations.problems.length} problems${ofAll}`;
}

function listButtons() {
  return document.querySelectorAll("#problems button[data-problem]");
}

function more() {
  const first = view.portion;
  view.portion += PORTION;
  list();
  listButtons()[first]?.focus();
}

function markCurrent() {
  const box = byId("problems");
  for (const button of listButtons()) {
    const current = Number(button.dataset.problem) === view.chosen.problem;
    button.setAttribute("aria-current", String(current));
    if (current) box.scrollTop = Math.max(0, button.offsetTop - box.offsetTop - 80);
  }
}

// Replace what is in an element; the focus stays on what it was on, or on the first thing that can have it.
function replace(parent, ...children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (key === undefined) return;
  const next = parent.querySelector(`[data-key="${key}"]:not([disabled])`) ?? parent.querySelector("[data-key]");
  next?.focus({ preventScroll: true });
}

// ── generations: one problem ────────────────────────────────────────────────────────────────────────────────────────

function shaded({ text, tokens }) {
  if (!view.chosen.shade || !tokens) return [text];
  const [counts, entropies, nlls] = tokens;
  const values = view.chosen.shade === "entropy" ? entropies : nlls;
  const strongest = Number(colour("--strongest"));
  const letters = Array.from(text); // full characters, as they were counted, and not UTF-16 units
  const made = [];
  let start = 0;
  for (let index = 0; index < values.length; index += 1) {
    const size = typeof counts === "string" ? generations.digits.indexOf(counts[index]) : counts[index];
    if (!size) continue;
    const value = nats(values[index]);
    const style = `background:rgba(var(--heat),${(strongest * Math.min(1, value / 4)).toFixed(2)})`;
    const token = letters.slice(start, start + size).join("");
    made.push(element("span", { style, title: `${value.toFixed(2)} nats` }, token));
    start += size;
  }
  if (start < letters.length) made.push(letters.slice(start).join(""));
  return made;
}

function card(problem, stepIndex) {
  const responses = problem.responses[stepIndex];
  if (!responses) return null;
  const step = `step ${generations.steps[stepIndex]}`;
  const response = responses[Math.min(view.chosen.sample, responses.length - 1)];
  const { outcome, answer, length, entropy, tokens } = response;
  const unknown = view.chosen.shade && !tokens;
  return element("section", { class: "response", "aria-label": `Response at ${step}` },
    element("h4", {}, `${step} `, element("span", { class: outcomeClass(outcome) }, outcome)),
    element("dl", { class: "pair" },
      element("dt", {}, "answer"), element("dd", {}, answer || "–"),
      element("dt", {}, "reference"), element("dd", {}, problem.reference || "–")),
    element("pre", { tabindex: "0", "aria-label": "response" }, ...shaded(response)),
    unknown ? element("p", { class: "hint" }, "The tokens of this response were not logged.") : null,
    element("p", { class: "hint" }, `${length} tokens${entropy === null ? "" : `, mean entropy ${entropy} nats`}`));
}

// The response at the chosen step, and beside it that of the first evaluation.
function cards(problem) {
  const steps = new Set([firstAsked(problem), chosenStep()]);
  return element("div", { class: "responses" }, ...Array.from(steps, (step) => card(problem, step)));
}

function stepButton(problem, index) {
  const responses = problem.responses[index];
  if (!responses) return null;
  const step = generations.steps[index];
  const solved = isSolved(responses);
  const attributes = {
    type: "button", "data-key": `step-${step}`, "aria-pressed": String(step === view.chosen.step),
    onclick: () => change({ step }),
  };
  const sign = element("span", { class: solved ? "right" : "wrong" }, solved ? "✓" : "✗");
  return element("button", attributes, `step ${step} `, sign);
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

function legend() {
  if (!view.chosen.shade) return null;
  const what = view.chosen.shade === "nll" ? "negative log-likelihood" : "entropy";
  return element("p", { class: "legend" }, "0", element("span", { class: "ramp" }), `4 nats of ${what} and more`);
}

function detail() {
  const problem = generations.problems[view.chosen.problem];
  if (!problem) {
    const signs = "● right, ○ wrong, ◐ cut off, ✕ malformed, · not asked";
    const hint = `Choose a problem. Marks show its outcome at each evaluation: ${signs}.`;
    replace(byId("problem"), element("p", { class: "hint" }, hint));
    return;
  }
  const parts = [
    element("h3", { "aria-live": "polite" }, `Problem ${generations.start + view.chosen.problem + 1}`),
    element("pre", {}, problem.question), navigation(problem), legend(), cards(problem),
  ];
  replace(byId("problem"), ...parts.filter(Boolean));
}

// ── generations: the address, and what changes it ───────────────────────────────────────────────────────────────────

function remember(push) {
  const { problem, step, show, search, shade, sample } = view.chosen;
  const number = problem === null ? "" : generations.start + problem + 1;
  const values = Object.entries({ problem: number, step, show, search, shade, sample: sample || "" });
  const hash = "#" + new URLSearchParams(values.filter(([, value]) => value !== "" && value !== "all"));
  if (hash !== location.hash) history[push ? "pushState" : "replaceState"](null, "", hash);
}

// Choose what the address says; what it cannot mean is as if it were not there. Whether it is of generations at all.
function recall() {
  const values = new URLSearchParams(location.hash.slice(1));
  const chosen = { problem: null, step: generations.steps.at(-1), show: "all", search: "", shade: "", sample: 0 };
  view.chosen = chosen;
  if (!values.has("step")) return false;
  const step = Number(values.get("step"));
  const sample = Number(values.get("sample") ?? 0);
  const index = Number(values.get("problem") ?? 0) - 1; // over all parts
  if (generations.steps.includes(step)) chosen.step = step;
  if (Number.isInteger(sample) && sample >= 0) chosen.sample = sample;
  if (shows().includes(values.get("show"))) chosen.show = values.get("show");
  if (["entropy", "nll"].includes(values.get("shade"))) chosen.shade = values.get("shade");
  chosen.search = values.get("search") ?? "";
  if (generations.problems[index - generations.start]) chosen.problem = index - generations.start;
  else goToPartOf(index);
  return true;
}

function goToPartOf(index) {
  const part = generations.parts.find((each) => index >= each.start && index < each.start + each.problems);
  if (part && !part.this) location.replace(part.name + location.hash);
}

function display() {
  for (const name of ["step", "show", "search", "shade"]) byId(name).value = view.chosen[name];
  countOptions();
  choose();
  list();
  markCurrent();
  detail();
}

function change(values, push = false) {
  Object.assign(view.chosen, values);
  byId("step").value = view.chosen.step;
  if ("step" in values) countOptions();
  if ("step" in values || "show" in values || "search" in values) { choose(); list(); }
  detail();
  remember(push);
}

function open(index) {
  change({ problem: index }, true);
  if (view.listed.indexOf(index) >= view.portion) { choose(); list(); }
  markCurrent();
  if (matchMedia("(max-width: 46rem)").matches) byId("problem").focus();
}

function browse() {
  byId("browser").hidden = false;
  byId("step").append(...generations.steps.map((step) => element("option", { value: step }, `step ${step}`)));
  byId("show").append(...shows().map((name) => element("option", { value: name }, name)));
  const linked = recall();
  display();
  if (linked && arrivedBy("navigate")) byId("generations").scrollIntoView({ behavior: "instant" });
  let typing = 0;
  byId("step").addEventListener("change", (event) => change({ step: Number(event.target.value) }));
  byId("show").addEventListener("change", (event) => change({ show: event.target.value }));
  byId("shade").addEventListener("change", (event) => change({ shade: event.target.value }));
  byId("search").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ search: event.target.value }), 150);
  });
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", () => { if (!location.hash || location.hash.includes("step=")) { recall(); display(); } });
}

// ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────

// A page that is loaded again, or gone back to, stays where it was.
function arrivedBy(type) {
  return performance.getEntriesByType("navigation")[0]?.type === type;
}

// A page of a run that goes on loads itself again, unless somebody is at work in it; what is open stays open.
function reloadWhenIdle() {
  if (document.hidden || document.activeElement?.matches("input, select, #problem *, #problems *")) {
    setTimeout(reloadWhenIdle, 2000);
    return;
  }
  const open = Array.from(document.querySelectorAll("details"), (each) => each.open);
  keep("sessionStorage", "tutelage-open", JSON.stringify({ open, steps: curves.steps }));
  location.reload();
}

function reopen() {
  const before = JSON.parse(kept("sessionStorage", "tutelage-open") ?? "null");
  if (!before || !arrivedBy("reload")) return;
  curves.steps = before.steps;
  document.querySelectorAll("details").forEach((each, index) => { each.open = before.open[index] ?? each.open; });
}

async function main() {
  followTheme();
  const payload = JSON.parse(await unpack("payload"));
  curves.figures = payload.figures;
  generations = payload.generations;
  reopen();
  if (generations?.problems.length) {
    generations.problems = generations.problems.map(unpackProblem);
    browse();
  } else byId("no-generations")?.removeAttribute("hidden");
  document.documentElement.dataset.ready = "browser";
  await drawCurves();
  document.documentElement.dataset.ready = "all";
  if ("live" in document.body.dataset) setTimeout(reloadWhenIdle, 10000);
}

main().catch((error) => {
  const note = `This page could not be set up in this browser: ${error}`;
  byId("main").prepend(element("p", { class: "note", role: "alert" }, note));
  throw error;
});
