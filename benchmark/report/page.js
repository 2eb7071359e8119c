"use strict";

// A number at the beginning of a text sorts as a number; what holds none comes last.
function keyOf(row, place) {
  const text = row.cells[place].textContent.trim();
  const number = /^-?\d+(\.\d+)?/.exec(text.replace(/,/g, ""));
  return { number: number ? Number(number[0]) : null, text, missing: text === "-" || text === "" };
}

function compare(a, b) {
  if (a.number !== null && b.number !== null) return a.number - b.number;
  return a.text.localeCompare(b.text, "en", { numeric: true });
}

function sortBy(table, header, place) {
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.children) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: keyOf(row, place) }));
  rows.sort((a, b) => a.key.missing - b.key.missing || (up ? 1 : -1) * compare(a.key, b.key));
  body.append(...rows.map((one) => one.row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, place) => {
    header.querySelector("button").addEventListener("click", () => sortBy(table, header, place));
  });
}

function filter(board) {
  const chosen = [...board.querySelectorAll("select")].filter((select) => select.value);
  const rows = [...board.querySelectorAll("table.sortable tbody tr")];
  let shown = 0;
  for (const row of rows) {
    row.hidden = !chosen.every((select) => row.dataset[select.name] === select.value);
    shown += !row.hidden;
    const cell = row.dataset.row && document.getElementById(row.dataset.row);
    if (cell) cell.hidden = row.hidden;
  }
  board.querySelector("output").textContent =
    shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
}

for (const board of document.querySelectorAll("section.board")) {
  const form = board.querySelector("form");
  form.addEventListener("change", () => filter(board));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter(board); // a browser may have kept a choice
}

// A link to a cell opens it.
function open() {
  const cell = document.getElementById(location.hash.slice(1));
  if (cell instanceof HTMLDetailsElement) {
    for (let one = cell; one; one = one.parentElement.closest("details")) one.open = true;
    cell.querySelector("summary").focus();
  }
}
addEventListener("hashchange", open);
open();

// A plot is drawn when it is first seen.
const specs = JSON.parse(document.getElementById("specs").textContent);

// Of columns of numbers, points; a text is the same at each.
function unfold(curve) {
  const lengths = Object.values(curve).filter(Array.isArray).map((column) => column.length);
  return Array.from({ length: lengths[0] ?? 1 }, (_, place) =>
    Object.fromEntries(Object.entries(curve).map(([name, of]) => [name, Array.isArray(of) ? of[place] : of])));
}

function draw(figure) {
  const spec = structuredClone(specs[figure.dataset.spec]);
  spec.data = { values: JSON.parse(figure.querySelector("script").textContent).flatMap(unfold) };
  spec.config.legend.columns = figure.clientWidth < 500 ? 1 : 3;
  spec.config.axis.tickCount = figure.clientWidth < 500 ? 4 : 8;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return vegaEmbed(figure.querySelector(".plot"), spec, {
    actions: false, ast: true, mode: "vega-lite", renderer: "svg", tooltip: { theme: dark ? "dark" : "light" },
  });
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  }
}, { rootMargin: "300px" });
for (const figure of document.querySelectorAll("figure.chart")) seen.observe(figure);
