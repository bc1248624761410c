// The page: its theme, what can be copied, and how it begins. All that comes from data is set as text, never as markup.

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

// Tab stops only at what is too large for its place, for there the arrow keys scroll.
function reachIfScrolled(box) {
  const isLarger = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
  if (isLarger) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}

function followScrolled() {
  const watcher = new ResizeObserver((seen) => { for (const { target } of seen) reachIfScrolled(target); });
  for (const box of document.querySelectorAll(".wide, .figures")) watcher.observe(box);
}

// Where the browser gives a page from a file no clipboard, its older way is taken.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = element("textarea", {}, text);
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
}

function offerCopies() {
  for (const command of document.querySelectorAll(".command")) {
    const button = element("button", { type: "button", class: "copy", "aria-label": `Copy: ${command.textContent}` }, "Copy");
    button.addEventListener("click", async () => {
      await copy(command.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    command.after(button);
  }
}

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
  followPrinting();
  followScrolled();
  offerCopies();
  const payload = JSON.parse(await unpack("payload"));
  curves.figures = payload.figures;
  reopen();
  if (payload.generations?.problems.length) {
    generations = payload.generations;
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
