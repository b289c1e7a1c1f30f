"use strict";

// Widths of a chart in print, in CSS pixels: of A4 less its margins, for one chart in a row and for two.
const PRINT_WIDTH = { one: 680, two: 328 };
// Charts of the usual height are lower in print. Those with a line per network or layer keep theirs.
const USUAL_HEIGHT = 340, PRINT_HEIGHT = 230;

const greys = JSON.parse(document.body.dataset.greys);
const plots = [...document.querySelectorAll(".plot")].map(place => ({ place, chart: JSON.parse(place.dataset.chart) }));

function themed(layout) {
  const style = getComputedStyle(document.documentElement), value = name => style.getPropertyValue(name).trim();
  const axis = given => ({ ...given, gridcolor: value("--grid"), linecolor: value("--line"), zerolinecolor: value("--line") });
  return { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: value("--text"), size: 12 },
           xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis), hoverlabel: { align: "left" },
           modebar: { bgcolor: "rgba(0,0,0,0)", color: value("--quiet"), activecolor: value("--text") } };
}

// The greys of dense networks and controls would vanish on a dark page.
function coloured(data) {
  const style = getComputedStyle(document.documentElement);
  return data.map(trace => trace.line && greys[trace.line.color]
    ? { ...trace, line: { ...trace.line, color: style.getPropertyValue(greys[trace.line.color]).trim() } } : trace);
}

// `extra` is what the layout has in this medium alone. Where a pointer can hover, the mode bar shows on it; else never.
function draw({ place, chart }, extra = {}) {
  const config = { responsive: true, displaylogo: false, displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false };
  const layout = { ...themed(chart.layout), ...extra };
  place.style.height = `${layout.height}px`;  // on a resize Plotly forgets the layout's height and takes this one
  return Plotly.react(place, coloured(chart.data), layout, config);
}
function drawAll() { for (const plot of plots) draw(plot); }

drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
addEventListener("beforeprint", () => {
  for (const plot of plots) {
    const isTwo = plot.place.closest(".charts").classList.length === 1, height = plot.chart.layout.height;
    draw(plot, { autosize: false, width: isTwo ? PRINT_WIDTH.two : PRINT_WIDTH.one, font: { color: "#000", size: 10 },
                 height: height > USUAL_HEIGHT ? height : PRINT_HEIGHT });
  }
});
addEventListener("afterprint", () => {
  for (const plot of plots) draw(plot, { autosize: true }).then(() => Plotly.Plots.resize(plot.place));
});

// A legend hides and shows curves in all charts of its row.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true", row = button.closest(".row");
    button.setAttribute("aria-pressed", shown);

    for (const plot of plots.filter(plot => row.contains(plot.place))) {
      for (const trace of plot.chart.data)
        if ((trace.legendgroup ?? trace.name) === button.dataset.name) trace.visible = shown;
      draw(plot);
    }
  });
}

// Columns of a group unfold together.
for (const box of document.querySelectorAll(".fold input")) {
  box.addEventListener("change", () => {
    for (const cell of document.querySelectorAll(`.results .folded[data-group="${box.dataset.group}"]`))
      cell.classList.toggle("unfolded", box.checked);
  });
  box.dispatchEvent(new Event("change"));  // a browser may remember that it was checked
}

// A first click sorts down, a second up, a third restores the order of the grid. The dense row stays on top.
const body = document.querySelector(".results tbody:not(.dense)"), grid = body ? [...body.rows] : [];
const titles = [...document.querySelectorAll(".results thead th")];
function compared(a, b) {
  const left = Number(a), right = Number(b);
  return a !== "" && b !== "" && !isNaN(left) && !isNaN(right) ? left - right : a.localeCompare(b);
}
titles.forEach((title, index) => title.querySelector("button").addEventListener("click", () => {
  const next = { none: "descending", descending: "ascending", ascending: "none" }[title.getAttribute("aria-sort") ?? "none"];
  for (const other of titles) other.removeAttribute("aria-sort");

  let rows = grid;
  if (next !== "none") {
    title.setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1, value = row => row.cells[index].dataset.value;
    rows = [...grid].sort((a, b) => sign * compared(value(a), value(b)));
  }
  body.append(...rows);
}));

// The data lie in the page; a click makes a file of them.
for (const link of document.querySelectorAll("a[data-csv]")) {
  link.addEventListener("click", () => {
    link.href = URL.createObjectURL(new Blob([link.dataset.csv], { type: "text/csv" }));
  });
}
