"use strict";
// All that comes from data is set as text, never as markup.

async function unpack(id) {
  const text = document.getElementById(id).textContent;
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place += 1) bytes[place] = letters.charCodeAt(place); // `from` takes thirty times as long
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// ── curves ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function themed() {
  const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") };
  return { ink: colour("--ink"), axis, hover: { bgcolor: colour("--paper"), bordercolor: colour("--line"), font: { color: colour("--ink") } } };
}

function layoutOf(figure) {
  const { ink, axis, hover } = themed();
  const layout = structuredClone(figure.layout);
  return {
    ...layout,
    xaxis: { ...axis, automargin: true, ...layout.xaxis, ...(figure.linked && range ? { range } : {}) }, yaxis: { ...axis, automargin: true, ...layout.yaxis },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12 }, hoverlabel: hover,
    margin: { l: 50, r: 12, t: 18, b: 42 }, hovermode: figure.linked ? "x unified" : "closest", showlegend: figure.data.filter((t) => t.showlegend !== false).length > 1,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
  };
}

let figures = [];
let range = null; // of steps, in all curves over steps, those that are not drawn yet too
let following = false;

function placeOf(figure) {
  return document.getElementById("figure-" + figure.name);
}

function linkZoom(figure) {
  placeOf(figure).on("plotly_relayout", (change) => {
    if (following || !figure.linked) return;
    const wanted = change["xaxis.range"] ?? (change["xaxis.range[0]"] === undefined ? null : [change["xaxis.range[0]"], change["xaxis.range[1]"]]);
    if (wanted || change["xaxis.autorange"]) zoom(wanted, figure);
  });
}

async function zoom(wanted, but = null) {
  range = wanted;
  following = true;
  const update = range ? { "xaxis.range": range } : { "xaxis.autorange": true, "yaxis.autorange": true };
  const others = figures.filter((figure) => figure.linked && figure !== but).map(placeOf).filter((place) => place.data);
  try {
    await Promise.all(others.map((place) => Plotly.relayout(place, structuredClone(update))));
  } finally {
    following = false;
  }
}

async function draw() {
  if (!figures.length) return;
  const script = element("script", { src: URL.createObjectURL(new Blob([await unpack("plotly")], { type: "text/javascript" })) });
  await new Promise((done, failed) => { script.onload = done; script.onerror = failed; document.head.append(script); });
  const drawn = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (!isIntersecting) continue;
      drawn.unobserve(target);
      const figure = figures.find((other) => placeOf(other) === target);
      Plotly.newPlot(target, figure.data, layoutOf(figure), { responsive: true, displayModeBar: false }).then(() => linkZoom(figure));
    }
  }, { rootMargin: "400px" });
  for (const figure of figures) drawn.observe(placeOf(figure));
  document.getElementById("unzoom")?.addEventListener("click", () => zoom(null));
}

function redraw() {
  for (const figure of figures) {
    const place = placeOf(figure);
    if (place.data) Plotly.react(place, figure.data, layoutOf(figure), { responsive: true, displayModeBar: false });
  }
}

function followTheme() {
  const root = document.documentElement;
  const stored = (() => { try { return localStorage.getItem("tutelage-theme"); } catch { return null; } })();
  if (stored) root.dataset.theme = stored;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("tutelage-theme", root.dataset.theme); } catch { /* a page from a file may have no storage */ }
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

// ── generations ─────────────────────────────────────────────────────────────────────────────────────────────────────

const RIGHT = 0;
const PORTION = 100;
let generations = null;
let chosen = null;
let shown = [];
let portion = PORTION;

function firstAsked(problem) {
  return problem.a.findIndex((responses) => responses !== null);
}

function isRight(responses) {
  return responses.filter((response) => response[1] === RIGHT).length * 2 >= responses.length;
}

function stepPlace() {
  return generations.steps.indexOf(chosen.step);
}

function fits(problem, show, place) {
  const responses = problem.a[place];
  if (!responses) return false;
  if (show === "all") return true;
  if (show === "gained" || show === "lost") {
    const first = firstAsked(problem);
    if (first === place) return false;
    return isRight(responses) === (show === "gained") && isRight(problem.a[first]) === (show === "lost");
  }
  return responses.some((response) => generations.outcomes[response[1]] === show);
}

function says(problem, place, wanted) {
  const texts = [problem.q, problem.r, ...problem.a[place].map((response) => response[0])];
  return texts.some((text) => text.toLowerCase().includes(wanted));
}

function choose() {
  const place = stepPlace();
  const wanted = chosen.search.trim().toLowerCase();
  shown = generations.problems.map((_, number) => number).filter((number) => {
    const problem = generations.problems[number];
    return fits(problem, chosen.show, place) && (!wanted || says(problem, place, wanted));
  });
  portion = Math.max(PORTION, Math.ceil((shown.indexOf(chosen.problem) + 1) / PORTION) * PORTION); // the chosen one is in sight
}

function outcomeClass(outcome) {
  return generations.outcomes[outcome].replace(" ", "-");
}

function dots(problem) {
  const marks = { right: "●", wrong: "○", "cut off": "◐", malformed: "✕" };
  const made = element("span", { class: "dots", "aria-hidden": "true" });
  for (const responses of problem.a) {
    if (!responses) { made.append("·"); continue; }
    const outcome = isRight(responses) ? RIGHT : responses.find((response) => response[1] !== RIGHT)[1];
    made.append(element("span", { class: outcomeClass(outcome) }, marks[generations.outcomes[outcome]]));
  }
  return made;
}

function counts() {
  const place = stepPlace();
  const select = document.getElementById("show");
  for (const option of select.options) {
    const count = generations.problems.filter((problem) => fits(problem, option.value, place)).length;
    option.textContent = `${option.value} (${count})`;
  }
}

function list() {
  const place = stepPlace();
  const entries = shown.slice(0, portion).map((number) => {
    const problem = generations.problems[number];
    const outcome = isRight(problem.a[place]) ? RIGHT : problem.a[place].find((response) => response[1] !== RIGHT)[1];
    const name = generations.outcomes[outcome];
    return element("li", {}, element("button", { type: "button", "data-key": number, "data-problem": number, "aria-current": String(number === chosen.problem), onclick: () => open(number) },
      element("span", { class: "text" }, problem.q),
      element("span", { class: "meta" }, `${generations.start + number + 1} · `, dots(problem), " ", element("span", { class: outcomeClass(outcome) }, name))));
  });
  if (shown.length > portion) {
    entries.push(element("li", {}, element("button", { type: "button", onclick: more }, `show ${Math.min(PORTION, shown.length - portion)} more`)));
  }
  replace(document.getElementById("problems"), ...entries);
  const here = generations.parts.length > 1 ? ` on this page (of ${generations.parts.reduce((sum, part) => sum + part.problems, 0)} in all)` : "";
  document.getElementById("count").textContent = `${shown.length} of ${generations.problems.length} problems${here}`;
}

function more() {
  const first = portion;
  portion += PORTION;
  list();
  document.querySelectorAll("#problems button[data-problem]")[first]?.focus();
}

function current() {
  for (const button of document.querySelectorAll("#problems button[data-problem]")) {
    const own = Number(button.dataset.problem) === chosen.problem;
    button.setAttribute("aria-current", String(own));
    if (own) button.parentElement.parentElement.scrollTop = Math.max(0, button.offsetTop - button.parentElement.parentElement.offsetTop - 80);
  }
}

function nats(digit) {
  return 2 ** (generations.digits.indexOf(digit) / generations.octave) - 1;
}

function shaded(response) {
  const [text, , , , , tokens] = response;
  if (!chosen.shade || !tokens) return [text];
  const [counts, entropies, nlls] = tokens;
  const values = chosen.shade === "entropy" ? entropies : nlls;
  const letters = Array.from(text); // whole characters, as they were counted, and not UTF-16 units
  const made = [];
  let place = 0;
  for (let token = 0; token < values.length; token += 1) {
    const size = typeof counts === "string" ? generations.digits.indexOf(counts[token]) : counts[token];
    if (!size) continue;
    const value = nats(values[token]);
    const strength = Number(colour("--strongest")) * Math.min(1, value / 4);
    made.push(element("span", { style: `background:rgba(var(--heat),${strength.toFixed(2)})`, title: `${value.toFixed(2)} nats` }, letters.slice(place, place + size).join("")));
    place += size;
  }
  if (place < letters.length) made.push(letters.slice(place).join(""));
  return made;
}

function responseCard(problem, place, sample) {
  const responses = problem.a[place];
  if (!responses) return null;
  const response = responses[Math.min(sample, responses.length - 1)];
  const [, outcome, answer, length, entropy, tokens] = response;
  const name = generations.outcomes[outcome];
  return element("section", { class: "response", "aria-label": `Response at step ${generations.steps[place]}` },
    element("h4", {}, `step ${generations.steps[place]} `, element("span", { class: outcomeClass(outcome) }, name)),
    element("dl", { class: "pair" },
      element("dt", {}, "answer"), element("dd", {}, answer || "–"),
      element("dt", {}, "reference"), element("dd", {}, problem.r || "–")),
    element("pre", { tabindex: "0", "aria-label": "response" }, ...shaded(response)),
    chosen.shade && !tokens ? element("p", { class: "hint" }, "The tokens of this response were not logged.") : null,
    element("p", { class: "hint" }, `${length} tokens${entropy === null ? "" : `, mean entropy ${entropy} nats`}`));
}

function replace(parent, ...children) {
  const held = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (held !== undefined) (parent.querySelector(`[data-key="${held}"]:not([disabled])`) ?? parent.querySelector("[data-key]"))?.focus({ preventScroll: true });
}

function detail() {
  const article = document.getElementById("problem");
  if (chosen.problem === null || !generations.problems[chosen.problem]) {
    replace(article, element("p", { class: "hint" }, "Choose a problem. Marks show its outcome at each evaluation: ● right, ○ wrong, ◐ cut off, ✕ malformed, · not asked."));
    return;
  }
  const problem = generations.problems[chosen.problem];
  const place = stepPlace();
  const first = firstAsked(problem);
  const samples = Math.max(...problem.a.map((responses) => (responses ? responses.length : 0)));
  const steps = generations.steps.map((step, number) => problem.a[number] && element("button", { type: "button", "data-key": `step-${step}`, "aria-pressed": String(step === chosen.step), onclick: () => change({ step }) },
    `step ${step} `, element("span", { class: isRight(problem.a[number]) ? "right" : "wrong" }, isRight(problem.a[number]) ? "✓" : "✗")));
  const where = shown.indexOf(chosen.problem);
  const beside = (number, label) => element("button", { type: "button", "data-key": label, disabled: number < 0 || number >= shown.length, onclick: () => open(shown[number]) }, label);
  const pages = samples > 1 ? [element("label", {}, "sample ", (() => {
    const select = element("select", { "data-key": "sample" }, ...Array.from({ length: samples }, (_, number) => element("option", { value: number, selected: number === chosen.sample }, `${number + 1} of ${samples}`)));
    select.addEventListener("change", () => change({ sample: Number(select.value) }));
    return select;
  })())] : [];
  const legend = chosen.shade ? [element("p", { class: "legend" }, "0", element("span", { class: "ramp" }), `4 nats of ${chosen.shade === "nll" ? "negative log-likelihood" : "entropy"} and more`)] : [];
  replace(article,
    element("h3", { "aria-live": "polite" }, `Problem ${generations.start + chosen.problem + 1}`),
    element("pre", {}, problem.q),
    element("div", { class: "steps" }, ...steps.filter(Boolean), ...pages, beside(where - 1, "‹ previous"), beside(where < 0 ? 0 : where + 1, "next ›")),
    ...legend,
    element("div", { class: "responses" }, ...(place === first ? [] : [responseCard(problem, first, chosen.sample)]), responseCard(problem, place, chosen.sample)));
}

function remember(push = false) {
  const values = { problem: chosen.problem === null ? "" : generations.start + chosen.problem + 1, step: chosen.step, show: chosen.show, search: chosen.search, shade: chosen.shade, sample: chosen.sample || "" };
  const hash = "#" + new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== "all"));
  if (hash !== location.hash) history[push ? "pushState" : "replaceState"](null, "", hash);
}

function untouched() {
  return { problem: null, step: generations.steps.at(-1), show: "all", search: "", shade: "", sample: 0 };
}

// What the address says; anything that it cannot mean is as if it were not there. Whether it is of generations at all.
function recall() {
  const values = new URLSearchParams(location.hash.slice(1));
  chosen = untouched();
  if (!values.has("step")) return false;
  const step = Number(values.get("step"));
  const sample = Number(values.get("sample") ?? 0);
  const problem = Number(values.get("problem") ?? 0) - 1;
  if (generations.steps.includes(step)) chosen.step = step;
  if (Number.isInteger(sample) && sample >= 0) chosen.sample = sample;
  if (shows().includes(values.get("show"))) chosen.show = values.get("show");
  if (["entropy", "nll"].includes(values.get("shade"))) chosen.shade = values.get("shade");
  chosen.search = values.get("search") ?? "";
  const own = problem - generations.start;
  if (own >= 0 && own < generations.problems.length) chosen.problem = own;
  else elsewhere(problem);
  return true;
}

// Where generations are split over several pages: the one that has a problem.
function elsewhere(problem) {
  const part = generations.parts.find((each) => problem >= each.start && problem < each.start + each.problems);
  if (part && !part.this) location.replace(part.name + location.hash);
}

function shows() {
  return ["all", "gained", "lost", ...generations.outcomes];
}

function display() {
  for (const name of ["step", "show", "search", "shade"]) document.getElementById(name).value = chosen[name];
  counts();
  choose();
  list();
  current();
  detail();
}

function change(values, push = false) {
  Object.assign(chosen, values);
  const other = "step" in values || "show" in values || "search" in values;
  document.getElementById("step").value = chosen.step;
  if ("step" in values) counts();
  if (other) { choose(); list(); }
  detail();
  remember(push);
}

function open(number) {
  change({ problem: number }, true);
  if (shown.indexOf(number) >= portion) { choose(); list(); }
  current();
  if (matchMedia("(max-width: 46rem)").matches) document.getElementById("problem").focus();
}

function browse() {
  document.getElementById("browser").hidden = false;
  document.getElementById("step").append(...generations.steps.map((step) => element("option", { value: step }, `step ${step}`)));
  document.getElementById("show").append(...shows().map((name) => element("option", { value: name }, name)));
  const linked = recall();
  display();
  const fresh = performance.getEntriesByType("navigation")[0]?.type === "navigate"; // a page that is loaded again stays where it was
  if (linked && fresh) document.getElementById("generations").scrollIntoView({ behavior: "instant" });
  let typing = 0;
  document.getElementById("step").addEventListener("change", (event) => change({ step: Number(event.target.value) }));
  document.getElementById("show").addEventListener("change", (event) => change({ show: event.target.value }));
  document.getElementById("shade").addEventListener("change", (event) => change({ shade: event.target.value }));
  document.getElementById("search").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ search: event.target.value }), 150);
  });
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", () => { if (!location.hash || location.hash.includes("step=")) { recall(); display(); } });
}

// A page of a run that goes on loads itself again, unless somebody is at work in it; what is open stays open.
function reloadWhenIdle() {
  const busy = document.hidden || document.activeElement?.matches("input, select, #problem *, #problems *");
  if (busy) setTimeout(reloadWhenIdle, 2000);
  else {
    const open = Array.from(document.querySelectorAll("details"), (each) => each.open);
    try { sessionStorage.setItem("tutelage-open", JSON.stringify({ open, range })); } catch { /* a page from a file may have no storage */ }
    location.reload();
  }
}

function reopen() {
  try {
    const kept = JSON.parse(sessionStorage.getItem("tutelage-open") ?? "null");
    if (kept && performance.getEntriesByType("navigation")[0]?.type === "reload") {
      range = kept.range;
      document.querySelectorAll("details").forEach((each, place) => { each.open = kept.open[place] ?? each.open; });
    }
  } catch { /* as above */ }
}

async function main() {
  followTheme();
  const payload = JSON.parse(await unpack("payload"));
  figures = payload.figures;
  generations = payload.generations;
  reopen();
  if (generations && generations.problems.length) browse();
  else document.getElementById("no-generations")?.removeAttribute("hidden");
  document.documentElement.dataset.ready = "browser";
  await draw();
  document.documentElement.dataset.ready = "all";
  if ("live" in document.body.dataset) setTimeout(reloadWhenIdle, 10000);
}

main().catch((error) => {
  document.getElementById("main").prepend(element("p", { class: "note", role: "alert" }, `This page could not be set up in this browser: ${error}`));
  throw error;
});
