for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const order = (one, two) => Number.isNaN(Number(key(one))) || Number.isNaN(Number(key(two)))
        ? key(one).localeCompare(key(two)) : Number(key(one)) - Number(key(two));
      body.append(...[...body.rows].sort((one, two) => (down ? order(two, one) : order(one, two))));
    });
  });
}
