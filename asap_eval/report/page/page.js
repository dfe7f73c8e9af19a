"use strict";

// Sorting: a head's button goes through ascending, descending and the table's own order. Numbers
// order by value, words by language; a cell without a value stays last in both directions.

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function valueOf(row, column, isNumber) {
  const cell = row.cells[column];
  if (isNumber) {
    return cell.dataset.order === "" ? null : Number(cell.dataset.order);
  }
  const text = cell.textContent.trim();
  return text === "—" || text === "" ? null : text;
}

function sort(table, column, isNumber, direction) {
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("section"));
    const sign = direction === "descending" ? -1 : 1;
    rows.sort((a, b) => {
      if (direction !== "none") {
        const [x, y] = [valueOf(a, column, isNumber), valueOf(b, column, isNumber)];
        if ((x === null) !== (y === null)) return x === null ? 1 : -1;
        if (x !== null) {
          const order = isNumber ? x - y : words.compare(x, y);
          if (order !== 0) return sign * order;
        }
      }
      return a.dataset.place - b.dataset.place;
    });
    body.append(...rows);
  }
}

for (const table of document.querySelectorAll(".sheet table")) {
  for (const body of table.tBodies) {
    [...body.rows].forEach((row, place) => { row.dataset.place = place; });
  }
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const direction = NEXT[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", direction);
      sort(table, column, head.classList.contains("number"), direction);
    });
  });
}
