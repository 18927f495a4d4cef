// Tables that are sorted by their headings.

/** A table of the data; `open` is called with the id of a recording that is chosen, `known` tells whether it is here. */
function sortable(one, known, open) {
  const isText = (column) => column === 0 || ["why", "source"].includes(one.columns[column]);
  const rows = [...one.rows];
  const body = html("tbody");
  const cell = (value, column) => {
    if (typeof value === "number") return one.columns[column].includes("%") ? value.toFixed(1) : String(value);
    if (column || !one.links || !known(value)) return value ?? "–";
    return html("button", { type: "button", class: "linkish", onclick: () => open(value) }, value);
  };
  const draw = () =>
    body.replaceChildren(
      ...rows.map((row) =>
        html(
          "tr",
          {},
          ...row.map((value, column) =>
            html(
              column ? "td" : "th",
              { class: isText(column) ? "text" : null, scope: column ? null : "row" },
              cell(value, column),
            ),
          ),
        ),
      ),
    );
  const head = html("tr");
  one.columns.forEach((name, column) => {
    const heading = html("th", { scope: "col", class: isText(column) ? "text" : null });
    const sort = () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of head.children) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      rows.sort((left, right) => {
        const [a, b] = [left[column], right[column]];
        if (a === null || b === null) return (a === null) - (b === null);
        return (
          sign *
          (typeof a === "number" && typeof b === "number"
            ? a - b
            : String(a).localeCompare(String(b), "en", { numeric: true }))
        );
      });
      draw();
    };
    heading.append(one.rows.length > 1 && name ? html("button", { type: "button", onclick: sort }, name) : name);
    head.append(heading);
  });
  draw();
  const table = html("table", {}, html("thead", {}, head), body);
  const made = panel(
    one.title,
    one.note,
    html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": one.title }, table),
  );
  made.classList.add("wide");
  return made;
}

/** Two columns: names and texts. */
function pairs(entries, kind) {
  const rows = entries.map(([name, value]) =>
    html("tr", {}, html("th", { scope: "row" }, name), html("td", {}, value)),
  );
  return html("div", { class: "scroll", tabindex: 0 }, html("table", { class: kind }, html("tbody", {}, ...rows)));
}
