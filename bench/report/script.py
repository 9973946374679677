"""What the table of all rows does beyond a plain table: it sorts and it filters."""

# Headers become buttons only here, so that without a script nothing looks as if it could be pressed. Numbers come
# before words, and empty cells last whichever way one sorts.
SCRIPT = """
"use strict";
const table = document.getElementById("rows");
const body = table.tBodies[0];
const all = Array.from(body.rows);
const value = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.v ?? cell.textContent;
  const number = text.trim() === "" ? NaN : Number(text);
  return { text, number, empty: text.trim() === "", numeric: !Number.isNaN(number) };
};
const order = (a, b) => {
  if (a.numeric && b.numeric) return a.number - b.number;
  if (a.numeric !== b.numeric) return a.numeric ? -1 : 1;
  return a.text.localeCompare(b.text, "en", { numeric: true });
};
const sort = (header, column) => {
  const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const keyed = all.map((row) => [value(row, column), row]);
  keyed.sort(([a], [b]) => (a.empty || b.empty ? a.empty - b.empty : sign * order(a, b)));
  body.append(...keyed.map(([, row]) => row));
};
Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = header.textContent;
  button.addEventListener("click", () => sort(header, column));
  header.replaceChildren(button);
});
const box = document.getElementById("filter");
const count = document.getElementById("count");
const texts = new Map(all.map((row) => [row, row.textContent.toLowerCase()]));
const filter = () => {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const row of all) {
    row.hidden = !words.every((word) => texts.get(row).includes(word));
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${all.length} rows`;
};
box.addEventListener("input", filter);
box.closest(".filter").hidden = false;
filter();
"""
