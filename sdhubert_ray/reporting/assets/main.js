// The page, from top to bottom.

const KINDS = { run: "Segmentation", training: "Training", figures: "Evaluation", comparison: "Comparison" };
const by = (id) => document.getElementById(id);
document.title = `${data.title} · sdhubert report`;
by("kind").textContent = KINDS[data.kind];
by("title").textContent = data.title;
by("place").textContent = data.place;
by("notes").append(
  ...data.notes.map((note) => html("li", { class: note.startsWith("COLLAPSE") ? "alarm" : null }, note)),
);
by("foot").textContent =
  `Made by sdhubert_ray ${data.version}, ${data.made.replace("T", " ").replace("+00:00", " UTC")}. Nothing on this page is loaded from elsewhere.`;

let player = null;
let browser = null;
let units = null;
const numberOf = new Map(data.recordings.map((one, number) => [one.id, number]));
const smooth = () => (matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth");

function openRecording(id) {
  browser.select(numberOf.get(id));
  by("listen").scrollIntoView({ behavior: smooth() });
  by("list").focus({ preventScroll: true });
}

function openUnit(unit) {
  player.pause();
  units.choose(unit);
  by("units").scrollIntoView({ behavior: smooth() });
}

// --- summary ------------------------------------------------------------------------------------------------------

if (data.tiles.length) {
  const tiles = data.tiles.map((tile) =>
    html("div", {}, html("dt", {}, tile.name), html("dd", {}, tile.value), html("dd", {}, tile.note)),
  );
  document.querySelector(".head").after(html("dl", { class: "tiles" }, ...tiles));
}
const STATUS_COLOURS = {
  ok: "--good",
  truncated: "--truth",
  silent: "--muted",
  too_short: "--wave",
  unreadable: "--miss",
  missing: "--series-2",
  failed: "--ink",
};
if (data.kind === "run") {
  const colours = data.statuses.map(([status]) => STATUS_COLOURS[status] ?? "--muted");
  const states = panel(
    "Recordings by status",
    null,
    ...partsOf("Recordings by status", data.statuses, (size) => whole.format(size), colours),
  );
  states.classList.add("wide");
  if (data.reasons.length)
    states.append(
      html(
        "div",
        { class: "scroll texts", tabindex: 0 },
        numbers(["rows", "status", "why"], data.reasons).querySelector("table"),
      ),
    );
  if (data.failures.length) {
    const made = numbers(["recording", "status", "why"], data.failures);
    made.querySelector("summary").textContent = `The recordings that failed (${whole.format(data.failures.length)})`;
    made.classList.add("texts");
    states.append(made);
  }
  section("summary", "Summary", null, html("div", { class: "grid" }, states, ...data.histograms.map(histogram)));
}
if (data.curves.length) {
  const lead =
    data.best_step === null
      ? "By steps that are done."
      : "By steps that are done; the line is where the best checkpoint was kept.";
  const made = section(
    "curves",
    "Curves",
    lead,
    html("div", { class: "grid" }, ...data.curves.map((one) => curves(one, data.alarms, data.best_step))),
  );
  made.querySelector(".grid").style.gridTemplateColumns = "repeat(auto-fit, minmax(min(100%, 440px), 1fr))";
}

// --- references, recordings, units --------------------------------------------------------------------------------

if (data.tables.length) {
  const tables = data.tables.map((one) => sortable(one, (id) => numberOf.has(id), openRecording));
  section(
    "agreement",
    data.kind === "run" ? "Against references" : "Figures",
    null,
    html("div", { class: data.kind === "comparison" ? "grid compared" : "grid" }, ...tables),
  );
}
if (data.recordings.length) {
  player = makePlayer(openUnit);
  browser = makeBrowser((number) => {
    if (units) units.stop();
    return player.load(number);
  });
  section(
    "listen",
    "Look and listen",
    "Choose a recording; a syllable plays when it is chosen.",
    html("div", { class: "listen" }, browser.box, player.box),
  );
}
if (data.units) {
  units = makeUnits((number) => openRecording(data.recordings[number].id));
  section("units", "Units", "All examples of one unit in a row: do they sound like one?", units.box);
}

// --- how it was made ----------------------------------------------------------------------------------------------

if (data.times.length) {
  const panels = data.times.map(([title, parts]) => {
    const total = parts.reduce((sum, [, seconds]) => sum + seconds, 0);
    return panel(title, lasting(total), ...partsOf(title, parts, lasting));
  });
  section("time", "Time", "Where the time of the last run went.", html("div", { class: "grid" }, ...panels));
}
const about = data.about.length ? panel("About", null, pairs(data.about, "settings")) : null;
const settings = data.settings.length ? panel("Configuration", null, pairs(data.settings, "settings")) : null;
section("made", "How it was made", null, html("div", { class: "grid" }, about, settings));

// --- theme and keys -----------------------------------------------------------------------------------------------

const THEMES = { auto: "light dark", light: "light", dark: "dark" };
let theme = "auto";
const dark = matchMedia("(prefers-color-scheme: dark)");
function recolour() {
  if (player) player.recolour();
  if (units) units.recolour();
}
function showTheme() {
  by("theme").textContent = { auto: "◐ Auto", light: "○ Light", dark: "● Dark" }[theme];
  by("theme").setAttribute("aria-label", `Colours: ${theme}; change`);
}
by("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  theme = names[(names.indexOf(theme) + 1) % names.length];
  document.documentElement.style.colorScheme = THEMES[theme];
  showTheme();
  recolour();
  say(`colours ${theme}`);
});
dark.addEventListener("change", recolour);
showTheme();

/** Keys are the player's while it is in view; elsewhere Space scrolls the page, as everywhere. */
function isListening() {
  const box = by("listen").getBoundingClientRect();
  return box.top < 0.7 * innerHeight && box.bottom > 0.2 * innerHeight;
}

document.addEventListener("keydown", (event) => {
  const focus = document.activeElement;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(focus.tagName);
  if (!player || typing || !isListening() || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.key === " " && /^(BUTTON|SUMMARY|A)$/.test(event.composedPath()[0].tagName)) return; // they take it themselves
  const action = {
    " ": player.toggle,
    ArrowRight: () => player.step(1),
    ArrowLeft: () => player.step(-1),
    j: () => browser.step(1),
    k: () => browser.step(-1),
    "+": () => player.changeSpeed(1),
    "=": () => player.changeSpeed(1),
    "-": () => player.changeSpeed(-1),
    i: () => player.zoom(1.6),
    o: () => player.zoom(1 / 1.6),
  }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

if (browser) browser.select(browser.first());
document.documentElement.dataset.ready = "yes";
