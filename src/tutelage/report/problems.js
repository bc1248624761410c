// The generations: what is known of each problem, which problems fit what is chosen, and the list of them.

let generations = null;
const SIGNS = { right: "●", wrong: "○", "cut off": "◐", malformed: "✕" }; // a shape each: nobody has to tell colours apart
const PORTION = 100;
const view = {
  chosen: {}, // what the address says: problem (an index, or null), step, show, search, shade, sample, beside
  listed: [], // indices of the problems that fit
  portion: PORTION, // so many of them are in the list
};

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

// An outcome's sign, and its name where `named`.
function mark(outcome, named = true) {
  const sign = element("span", { "aria-hidden": "true" }, SIGNS[outcome]);
  return element("span", { class: outcomeClass(outcome) }, sign, named ? ` ${outcome}` : null);
}

// ── which problems fit ──────────────────────────────────────────────────────────────────────────────────────────────

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
  showPortionOf(view.chosen.problem);
}

function showPortionOf(problem) {
  view.portion = Math.max(PORTION, Math.ceil((view.listed.indexOf(problem) + 1) / PORTION) * PORTION);
}

// How much a problem asks of a reader: an answer that was wrong tells more than one that was missing; short texts before long ones.
function effort(problem, step) {
  const [before, after] = [problem.responses[firstAsked(problem)][0], problem.responses[step][0]];
  const missing = [before, after].filter(({ outcome }) => outcome === "cut off" || outcome === "malformed").length;
  return missing * 1e9 + problem.question.length + before.text.length + after.text.length;
}

// The problem that tells most of the chosen evaluation: one that was gained, else one that was lost, else any. An index, or null.
function mostTelling() {
  const step = chosenStep();
  for (const show of ["gained", "lost", "all"]) {
    const indices = [...generations.problems.keys()].filter((index) => fits(generations.problems[index], show, step));
    const efforts = new Map(indices.map((index) => [index, effort(generations.problems[index], step)]));
    if (indices.length) return indices.reduce((best, index) => (efforts.get(index) < efforts.get(best) ? index : best));
  }
  return null;
}

// ── the list ────────────────────────────────────────────────────────────────────────────────────────────────────────

function marks(problem) {
  const made = element("span", { class: "dots", "aria-hidden": "true" });
  for (const responses of problem.responses) made.append(responses ? mark(outcomeOf(responses), false) : "·");
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
  const attributes = { type: "button", "data-key": index, "data-problem": index, onclick: () => open(index) };
  return element("li", {}, element("button", attributes, element("span", { class: "text" }, problem.question), meta));
}

function list() {
  const entries = view.listed.slice(0, view.portion).map(entry);
  const left = view.listed.length - view.portion;
  if (left > 0) {
    const label = `show ${Math.min(PORTION, left)} more`;
    entries.push(element("li", {}, element("button", { type: "button", onclick: more }, label)));
  }
  if (!entries.length) {
    const button = element("button", { type: "button", onclick: reset }, "Show all problems");
    entries.push(element("li", { class: "nothing" }, element("p", {}, "Nothing matches."), button));
  }
  replace(byId("problems"), ...entries);
  markCurrent();
  const inAll = generations.parts.reduce((sum, part) => sum + part.problems, 0);
  const ofAll = generations.parts.length > 1 ? ` on this page (of ${inAll} in all)` : "";
  byId("count").textContent = `${view.listed.length} of ${generations.problems.length} problems${ofAll}`;
}

function listButtons() {
  return Array.from(document.querySelectorAll("#problems button"));
}

function more() {
  const first = view.portion;
  view.portion += PORTION;
  list();
  listButtons()[first]?.focus();
}

function reset() {
  change({ show: "all", search: "", problem: null });
  byId("search").focus();
}

// Mark the chosen problem in the list. Tab reaches that entry alone, or the first one; arrow keys go on from there.
function markCurrent() {
  const box = byId("problems"), buttons = listButtons();
  const current = buttons.find((button) => Number(button.dataset.problem ?? NaN) === view.chosen.problem);
  for (const button of buttons) {
    if ("problem" in button.dataset) button.setAttribute("aria-current", String(button === current));
    button.tabIndex = button === (current ?? buttons[0]) ? 0 : -1;
  }
  if (current) box.scrollTop = Math.max(0, current.offsetTop - box.offsetTop - 80);
}

// Arrow keys, Home and End choose a problem; its entry keeps the focus.
function followArrows(event) {
  const buttons = listButtons(), index = buttons.indexOf(document.activeElement);
  const next = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: buttons.length - 1 }[event.key];
  const button = buttons[next];
  if (index < 0 || next === undefined || !button) return;
  event.preventDefault();
  button.focus();
  if ("problem" in button.dataset) change({ problem: Number(button.dataset.problem) });
}

// Replace what is in an element; the focus stays on what it was on, or on the first thing that can have it.
function replace(parent, ...children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (key === undefined) return;
  const next = parent.querySelector(`[data-key="${key}"]:not([disabled])`) ?? parent.querySelector("[data-key]");
  next?.focus({ preventScroll: true });
}
