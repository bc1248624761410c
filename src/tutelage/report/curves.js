"use strict";

// The curves: drawn one after the other as soon as the page is there, so that a full capture and a print hold all of them.

const curves = {
  figures: [],
  steps: null, // the range of steps in all curves over steps
  following: false, // whether curves are being zoomed because another one was
};
const PLOT_OPTIONS = { responsive: true, displayModeBar: false };
const PRINTED = { width: 222, height: 136 }, PRINTED_LARGE = { width: 680, height: 320 }; // pixels of a figure on paper

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// An axis of the page's colours, and of a figure's own settings; its title stands off its ticks.
function axisOf(own, extra, size) {
  const line = colour("--line");
  return {
    gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, exponentformat: "e", nticks: 6,
    ...own, ...extra, title: { standoff: 8, font: { size }, ...own?.title },
  };
}

function layoutOf(figure, size = 12) {
  const ink = colour("--ink");
  const layout = structuredClone(figure.layout);
  const zoomed = figure.linked && curves.steps ? { range: curves.steps } : {};
  return {
    ...layout,
    xaxis: axisOf(layout.xaxis, zoomed, size),
    yaxis: axisOf(layout.yaxis, {}, size),
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size },
    hoverlabel: { bgcolor: colour("--paper"), bordercolor: colour("--line"), font: { color: ink } },
    margin: { l: 36, r: 10, t: 8, b: 32 },
    hovermode: figure.linked ? "x unified" : "closest",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page and the row of curves
    showlegend: plotOf(figure).classList.contains("tall") && namedOf(figure).length > 1,
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 },
  };
}

function namedOf(figure) {
  return figure.data.filter((trace) => trace.showlegend !== false);
}

// The names of a small figure's lines. They stand above it, where they take a line or two and none of its height.
function keyOf(figure) {
  const strokes = { solid: "solid", dash: "dashed", dot: "dotted", dashdot: "double" };
  const named = namedOf(figure);
  if (named.length < 2 || plotOf(figure).classList.contains("tall")) return null;
  return element("p", { class: "key" }, ...named.map((trace) => {
    const style = `border-top: 3px ${strokes[trace.line?.dash] ?? "solid"} ${trace.line?.color ?? trace.marker.color}`;
    const sign = trace.mode === "markers" ? element("span", { style: `color: ${trace.marker.color}` }, "◆") : element("i", { style });
    return element("span", {}, sign, ` ${trace.name}`);
  }));
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
  for (const figure of curves.figures) {
    plotOf(figure).before(...[keyOf(figure)].filter(Boolean));
    await Plotly.newPlot(plotOf(figure), figure.data, layoutOf(figure), PLOT_OPTIONS);
    linkZoom(figure);
    await new Promise((onward) => setTimeout(onward)); // what a person does meanwhile goes before
  }
  byId("unzoom")?.addEventListener("click", () => zoom(null));
}

function redrawCurves() {
  for (const figure of curves.figures) {
    if (plotOf(figure).data) Plotly.react(plotOf(figure), figure.data, layoutOf(figure), PLOT_OPTIONS);
  }
}

// On paper the curves are small and in the colours of the light theme, whatever the screen shows.
function followPrinting() {
  const root = document.documentElement;
  let theme;
  addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    for (const figure of curves.figures) {
      const plot = plotOf(figure);
      const size = plot.classList.contains("tall") ? PRINTED_LARGE : PRINTED;
      const layout = { ...layoutOf(figure, 8), ...size, autosize: false };
      if (plot.data) Plotly.react(plot, figure.data, layout, PLOT_OPTIONS);
    }
  });
  addEventListener("afterprint", () => {
    if (theme === undefined) delete root.dataset.theme;
    else root.dataset.theme = theme;
    redrawCurves();
  });
}
