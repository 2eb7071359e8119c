"use strict";

// The numbers in a text; a minus behind a word or number is none, as in 0.1-0.5.
const NUMBERS = /((?:(?<![\w.)])[-+])?\d+(?:,\d{3}(?!\d))*(?:\.\d+)?(?:e[-+]?\d+)?|\binf\b)/i;

const numberOf = (text) => Number(text.replace(/,/g, "").replace(/inf/i, "Infinity"));

// A cell sorts by the number that it says it is of, else by its text, in parts: texts and the numbers between them.
function keyOf(row, place) {
  const cell = row.cells[place], text = cell.textContent.trim();
  const parts = "value" in cell.dataset ? ["", cell.dataset.value] : text.split(NUMBERS);
  const isWord = cell.classList.contains("n") && parts[0] !== "";  // among numbers
  return { parts: parts.map((part, i) => (i % 2 ? numberOf(part) : part)), missing: text === "-" || text === "" || isWord };
}

function compare(a, b) {
  for (let i = 0; i < Math.min(a.parts.length, b.parts.length); i++) {
    const [one, other] = [a.parts[i], b.parts[i]];
    const order = i % 2 ? (one > other) - (one < other) : one.localeCompare(other, "en");
    if (order) return order;
  }
  return a.parts.length - b.parts.length;
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
  const chosen = [...board.querySelectorAll(".filters select")].filter((select) => select.value);
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

// So many lines have a color each, and a legend; of more the pointer or a choice names one.
const COLORS = 10;

function draw(figure) {
  const spec = structuredClone(specs[figure.dataset.spec]);
  const curves = JSON.parse(figure.querySelector("script").textContent);
  const narrow = figure.clientWidth < 500;
  spec.data = { values: curves.flatMap(unfold).map((one) => ({ ...one, ...(narrow ? one.narrow : one.wide) })) };
  spec.config.legend.columns = narrow ? 1 : 3;
  spec.config.legend.labelLimit = Math.min(320, figure.clientWidth - 40);
  spec.config.axis.tickCount = narrow ? 4 : 8;
  for (const { bind } of (spec.params ?? []).filter((one) => one.bind)) {
    const names = curves.map((curve) => curve.defense);
    Object.assign(bind, { options: ["", ...names], labels: ["all", ...names] });
    spec.config.legend.disable = names.length > COLORS;
  }
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
