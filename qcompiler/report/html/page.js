"use strict";
// The page is whole without this: it adds sorting and searching to the table of nodes.
(() => {
  const table = document.getElementById("nodes-table");
  if (!table) return;
  const tools = document.getElementById("nodes-tools");
  const text = document.getElementById("nodes-text");
  const kind = document.getElementById("nodes-kind");
  const count = document.getElementById("nodes-count");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row, place) => ({
    row, place, cells: Array.from(row.cells, (cell) => cell.textContent), all: row.textContent.toLowerCase(),
  }));

  const search = () => {
    const words = text.value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const one of rows) {
      const fits = words.every((word) => one.all.includes(word)) && (!kind.value || one.row.dataset.kind === kind.value);
      one.row.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown + " of " + rows.length + " nodes";
  };

  const sort = (header, column) => {
    const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    rows.sort((a, b) => sign * a.cells[column].localeCompare(b.cells[column], undefined, { numeric: true }) || a.place - b.place);
    body.append(...rows.map((one) => one.row));
  };

  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sort(header, column));
    header.replaceChildren(button);
  });
  text.addEventListener("input", search);
  kind.addEventListener("change", search);
  tools.hidden = false;
  search();
})();
