// Which recordings: a list to choose from, searched and filtered.

function makeBrowser(load) {
  const { recordings } = data;
  const statuses = [...new Set(recordings.map((one) => one.status))].sort();
  const withUnits = recordings.some((one) => one.units !== null);
  const withTruth = recordings.some((one) => one.truth !== null && one.truth.f1 !== null);
  const option = (value, text = value) => html("option", { value }, text);
  const redraw = () => draw();
  const field = (label, input, full) => html("label", { class: full ? "full" : null }, label, input);
  const amount = (id, hint) =>
    html("input", {
      id,
      type: "number",
      min: 0,
      step: "any",
      inputmode: "decimal",
      placeholder: hint,
      oninput: redraw,
    });
  const text = html("input", {
    id: "search",
    type: "search",
    placeholder: "part of a name",
    autocomplete: "off",
    oninput: redraw,
  });
  const status = html(
    "select",
    { id: "status", onchange: redraw },
    option("", "all"),
    ...statuses.map((name) => option(name)),
  );
  const [least, most] = [amount("least", "any"), amount("most", "any")];
  const unit = html("input", {
    id: "unit-filter",
    type: "number",
    min: 0,
    step: 1,
    inputmode: "numeric",
    placeholder: "any",
    oninput: redraw,
  });
  const orders = [
    option("", "as sampled"),
    option("name"),
    option("longest", "longest first"),
    ...(withTruth ? [option("worst", "worst F1 first")] : []),
  ];
  const order = html("select", { id: "order", onchange: redraw }, ...orders);
  const filters = html(
    "div",
    { class: "filters", role: "search" },
    field("Search", text, true),
    field("Seconds from", least),
    field("to", most),
    field("Status", status),
    withUnits ? field("Has unit", unit) : null,
    field("Order", order, !withUnits && false),
  );
  const count = html("span", { role: "status" });
  const clear = html("button", { type: "button", class: "linkish", id: "clear", onclick: reset }, "Clear");
  const list = html("ul", { class: "list", id: "list", role: "listbox", tabindex: 0, "aria-label": "Recordings" });
  const box = html("div", { class: "panel finder" }, filters, html("div", { class: "count" }, count, clear), list);

  const items = recordings.map((one, number) => {
    const kind =
      one.status === "ok" ? "ok" : ["unreadable", "missing", "failed"].includes(one.status) ? "bad" : "other";
    const meta = html(
      "span",
      { class: "meta" },
      html("span", { class: `status ${kind}` }, one.status),
      html("span", {}, lasting(one.seconds)),
      html("span", {}, `${whole.format(one.num_syllables)} syll.`),
    );
    if (one.truth && one.truth.f1 !== null) meta.append(html("span", {}, `F1 ${one.truth.f1}`));
    return html(
      "li",
      { id: `recording-${number}`, role: "option", "aria-selected": "false", onclick: () => select(number) },
      html("span", { class: "name" }, one.id),
      meta,
    );
  });
  const unitSets = recordings.map((one) => new Set(one.units ?? []));
  let shown = [];
  let selected = null;

  function reset() {
    for (const input of [text, least, most, unit]) input.value = "";
    status.value = order.value = "";
    draw();
    text.focus();
  }

  function draw() {
    const wanted = text.value.trim().toLowerCase();
    const bound = (input, fallback) =>
      input.value === "" || Number.isNaN(input.valueAsNumber) ? fallback : input.valueAsNumber;
    const [from, to] = [bound(least, -Infinity), bound(most, Infinity)];
    shown = recordings
      .map((_, number) => number)
      .filter((number) => {
        const one = recordings[number];
        return (
          one.id.toLowerCase().includes(wanted) &&
          (!status.value || one.status === status.value) &&
          one.seconds >= from &&
          one.seconds <= to &&
          (unit.value === "" || unitSets[number].has(unit.valueAsNumber))
        );
      });
    const by = {
      name: (a, b) => recordings[a].id.localeCompare(recordings[b].id, "en", { numeric: true }),
      longest: (a, b) => recordings[b].seconds - recordings[a].seconds,
      worst: (a, b) => (recordings[a].truth?.f1 ?? Infinity) - (recordings[b].truth?.f1 ?? Infinity),
    }[order.value];
    if (by) shown.sort(by);
    list.replaceChildren(
      ...(shown.length
        ? shown.map((number) => items[number])
        : [html("li", { class: "empty" }, "No recording is like this.")]),
    );
    count.textContent =
      shown.length === recordings.length
        ? `${whole.format(shown.length)} recordings`
        : `${whole.format(shown.length)} of ${whole.format(recordings.length)}`;
    clear.hidden = shown.length === recordings.length && !order.value;
  }

  function select(number) {
    if (selected !== null) items[selected].setAttribute("aria-selected", "false");
    selected = number;
    items[number].setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", `recording-${number}`);
    const item = items[number]; // into view within the list, and not the list within the page
    const [top, bottom] = [item.offsetTop, item.offsetTop + item.offsetHeight];
    if (top < list.scrollTop) list.scrollTop = top;
    if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
    return load(number);
  }

  /** The recording so many places on in the list. */
  function step(by) {
    if (!shown.length) return;
    const place = shown.indexOf(selected);
    select(shown[Math.min(shown.length - 1, Math.max(0, place + by))]);
  }

  list.addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -shown.length, End: shown.length }[
      event.key
    ];
    if (move === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    step(move);
  });
  draw();
  return { box, select, step, first: () => shown.find((number) => recordings[number].silence === null) ?? shown[0] };
}
