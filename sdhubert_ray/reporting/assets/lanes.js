// What the systems of a comparison find in one recording, below it, a lane each.

/** `tell` is where what is chosen is told, `play` plays seconds of the recording. */
function makeLanes(tell, play) {
  const box = html("div", { class: "lanes" });
  box.addEventListener("click", (event) => event.stopPropagation()); // or the waveform would seek, too
  let one = null;

  const percent = (milliseconds) => `${(100 * milliseconds) / (1000 * one.shown)}%`;
  const inFile = (milliseconds) => (milliseconds / 1000 + one.offset).toFixed(2);
  /** Start and end of each syllable, ms. */
  const intervals = (system) =>
    Array.from({ length: system.times.length / 2 }, (_, place) => system.times.slice(2 * place, 2 * place + 2));

  /** A button for each syllable, and a mark at each boundary that no reference is near. */
  function lane(system) {
    const found = html("div", { class: "found", role: "group", "aria-label": system.name });
    intervals(system).forEach(([from, to], place) => {
      const name = `${system.name}, syllable ${place + 1}`;
      const label = `${name}, ${inFile(from)} to ${inFile(to)} seconds`;
      const made = html("button", { type: "button", "aria-label": label, onclick: () => choose(made, name, from, to) });
      made.style.left = percent(from);
      made.style.width = percent(to - from);
      found.append(made);
    });
    roving(found);
    const marks = system.extra.map((when) => {
      const made = html("div", { class: "beyond" });
      made.style.left = percent(when);
      return made;
    });
    const score = system.f1 === null ? "" : ` · F1 ${system.f1} %`;
    return html("div", { class: "lane" }, html("span", { class: "name" }, `${system.name}${score}`), found, ...marks);
  }

  function choose(made, name, from, to) {
    for (const other of box.querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
    made.setAttribute("aria-current", "true");
    const when = ` · ${inFile(from)}–${inFile(to)} s · ${to - from} ms`;
    tell.replaceChildren(html("span", {}, html("b", {}, name), when));
    say(`${name}${when}`);
    play(from / 1000, to / 1000);
  }

  /** Show those of a recording. */
  function fill(recording) {
    one = recording;
    box.replaceChildren(...one.lanes.map(lane));
  }

  /** Choose the syllable so many places on, in the lane of the one that was chosen. */
  function step(by) {
    const current = box.querySelector("[aria-current]");
    const next = by > 0 ? current?.nextElementSibling : current?.previousElementSibling;
    (current ? next : box.querySelector(".found button"))?.click();
  }

  /** Name and rows of a table of each. */
  const tables = () =>
    one.lanes.map((system) => [
      `${system.name} as a table`,
      intervals(system).map(([from, to], place) => [place + 1, inFile(from), inFile(to)]),
    ]);

  return { box, fill, step, tables };
}
