// One recording: waveform, spectrogram, syllables that play when they are chosen, references below.

const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5];
const [WAVE_HEIGHT, SPECTRUM_HEIGHT] = [96, 128];
const ZOOM_STEP = 1.6;
const [AT_FIRST_WIDE, CLOSEST] = [110, 900]; // pixels a second
const WIDEST = 30000; // pixels in all

function makePlayer(openUnit) {
  const button = (text, label, press, extra = {}) =>
    html("button", { type: "button", "aria-label": label, title: label, onclick: press, ...extra }, text);
  const title = html("h3", { id: "recording" }, "");
  const facts = html("p", { class: "facts" });
  const time = html("span", { class: "time" });
  const playButton = button("Play", "Play or pause", () => toggle(), { class: "play", id: "play" });
  const speed = html("span", { class: "unit", id: "speed" }, "1×");
  const controls = html(
    "div",
    { class: "controls", role: "group", "aria-label": "Playing" },
    playButton,
    button("‹", "Previous syllable", () => step(-1), { id: "previous" }),
    button("›", "Next syllable", () => step(1), { id: "next" }),
    html("span", { class: "gap" }),
    button("Slower", "Slower", () => changeSpeed(-1), { id: "slower" }),
    speed,
    button("Faster", "Faster", () => changeSpeed(1), { id: "faster" }),
    html("span", { class: "gap" }),
    button("−", "Zoom out", () => zoom(1 / ZOOM_STEP), { id: "out" }),
    button("+", "Zoom in", () => zoom(ZOOM_STEP), { id: "in" }),
    time,
  );
  const view = html("div", { class: "view" });
  const silent = html("div", { class: "view silent", hidden: true });
  const tell = html("div", { class: "tell" });
  const swatches = html("div", { class: "swatches" });
  const table = html("div");
  const key = (name, does) => html("span", {}, html("kbd", {}, name), ` ${does}`);
  const keys = html(
    "div",
    { class: "key" },
    key("Space", "play, pause"),
    key("→", "next syllable"),
    key("←", "previous"),
    key("J", "next recording"),
    key("K", "previous"),
    key("+", "faster"),
    key("-", "slower"),
    key("I", "closer"),
    key("O", "farther"),
  );
  const box = html(
    "div",
    { class: "panel player", role: "region", "aria-labelledby": "recording" },
    title,
    facts,
    controls,
    view,
    silent,
    swatches,
    tell,
    table,
    keys,
  );

  const audio = document.getElementById("audio");
  let number = null;
  let one = null;
  let at = null;
  let rate = 1;
  let pixels = 0;
  let wave = null;
  let over = null;
  let tiers = null;
  let spectrogram = null;
  const lanes = makeLanes(tell, (from, to) => {
    if (!silent.hidden) return;
    stopClip();
    playInterval(audio, from, to);
  });

  const start = (place) => one.times[2 * place] / 1000;
  const end = (place) => one.times[2 * place + 1] / 1000;
  const count = () => one.times.length / 2;

  function colours() {
    return { waveColor: colour("--wave"), progressColor: colour("--wave-played"), cursorColor: colour("--miss") };
  }

  /** From nothing to ink, as a spectrogram takes it. */
  function inks() {
    const [red, green, blue] = colour("--ink")
      .match(/[\d.]+/g)
      .slice(0, 3)
      .map((value) => Number(value) / 255);
    return Array.from({ length: 256 }, (_, level) => [red, green, blue, (level / 255) ** 1.3]);
  }

  function drawSpectrogram() {
    if (spectrogram) wave.unregisterPlugin(spectrogram);
    spectrogram = WaveSurfer.Spectrogram.create({
      container: tiers.spectrogram,
      height: SPECTRUM_HEIGHT,
      fftSamples: 512,
      windowFunc: "hann",
      scale: "mel",
      frequencyMin: 0,
      frequencyMax: 8000,
      labels: false,
      autoGain: true,
      rangeDB: 65,
      preEmphasis: 6,
      colorMap: inks(),
    });
    wave.registerPlugin(spectrogram);
  }

  function create() {
    wave = WaveSurfer.create({
      container: view,
      media: audio,
      height: WAVE_HEIGHT,
      sampleRate: 16000,
      normalize: true,
      cursorWidth: 1.5,
      autoScroll: true,
      autoCenter: false,
      ...colours(),
    });
    const inside = wave.getWrapper();
    const style = document.getElementById("tiers").cloneNode(true);
    style.removeAttribute("media");
    inside.getRootNode().append(style);
    over = html("div", { class: "over", role: "group", "aria-label": "Syllables" });
    tiers = {
      spectrogram: html("div", { class: "spectrogram" }),
      room: html("div", { class: "room" }),
      truth: html("div", { class: "truth" }),
      times: html("div", { class: "times" }),
      marks: html("div"),
    };
    inside.append(over, tiers.spectrogram, tiers.room, tiers.truth, lanes.box, tiers.times, tiers.marks);
    drawSpectrogram();
    wave.on("timeupdate", tellTime);
    wave.on("play", () => (playButton.textContent = "Pause"));
    wave.on("pause", () => (playButton.textContent = "Play"));
    wave.on("finish", () => (playButton.textContent = "Play"));
    wave.on("redraw", lay);
    wave.on("error", (error) => showSilence(`its sound cannot be played here (${error.message})`));
    over.addEventListener("click", (event) => event.stopPropagation()); // or the waveform would seek, too
    wave.registerPlugin(
      WaveSurfer.Timeline.create({
        container: tiers.times,
        height: 18,
        secondaryLabelOpacity: 1,
        formatTimeCallback: (seconds) => short(Number((seconds + one.offset).toFixed(2))),
        style: { fontSize: "10px", color: "var(--muted)" },
      }),
    );
  }

  /** Give what lies over the tiers their height. */
  function lay() {
    over.style.height = `${tiers.room.offsetTop + tiers.room.offsetHeight}px`;
    tiers.marks.style.cssText = `position:absolute;top:0;left:0;right:0;pointer-events:none;height:${tiers.times.offsetTop}px`;
  }

  const percent = (milliseconds) => `${(100 * milliseconds) / (1000 * one.shown)}%`;

  function fillTiers() {
    over.replaceChildren();
    for (let place = 0; place < count(); place++) {
      const label = one.units ? one.units[place] : place + 1;
      const seconds = `${(start(place) + one.offset).toFixed(2)} to ${(end(place) + one.offset).toFixed(2)} seconds`;
      const made = html(
        "button",
        {
          type: "button",
          tabindex: -1,
          "aria-label": `Syllable ${place + 1}, ${seconds}${one.units ? `, unit ${label}` : ""}`,
          onclick: () => playSyllable(place),
        },
        html("span", {}, String(label)),
      );
      made.style.left = percent(one.times[2 * place]);
      made.style.width = percent(one.times[2 * place + 1] - one.times[2 * place]);
      made.classList.toggle("closed", one.times[2 * place + 1] !== one.times[2 * place + 2]);
      over.append(made);
    }
    if (over.firstChild) over.firstChild.tabIndex = 0;
    tiers.truth.hidden = tiers.marks.hidden = one.truth === null;
    tiers.truth.style.display = one.truth === null ? "none" : "";
    tiers.truth.replaceChildren();
    tiers.marks.replaceChildren();
    lanes.fill(one);
    const compared = one.lanes.length > 0;
    tiers.room.style.display = compared ? "none" : "";
    const told = compared ? "syllables of a system" : one.units ? "syllables, by unit" : "syllables, numbered";
    swatches.replaceChildren(html("span", { "--fill": "var(--accent-soft)", "--edge": "var(--accent)" }, told));
    if (one.truth === null) return;
    one.truth.labels.forEach((label, place) => {
      const [from, to] = one.truth.times.slice(2 * place, 2 * place + 2);
      const made = html(
        "div",
        { title: `${label}: ${(from / 1000 + one.offset).toFixed(2)} to ${(to / 1000 + one.offset).toFixed(2)} s` },
        html("span", {}, label),
      );
      made.style.left = percent(Math.max(0, from));
      made.style.width = percent(Math.min(to, 1000 * one.shown) - Math.max(0, from));
      tiers.truth.append(made);
    });
    for (const kind of ["missed", "extra"]) {
      for (const when of one.truth[kind]) {
        const made = html("div", { class: `mark ${kind}` });
        made.style.left = percent(when);
        tiers.marks.append(made);
      }
    }
    swatches.append(
      html("span", { "--fill": "var(--truth-soft)", "--edge": "var(--truth)" }, "reference"),
      compared ? "" : html("span", { class: "miss" }, "missed boundary"),
      html("span", { class: "extra" }, "extra boundary"),
    );
  }

  function fillTable() {
    const rows = Array.from({ length: count() }, (_, place) => [
      place + 1,
      (start(place) + one.offset).toFixed(2),
      (end(place) + one.offset).toFixed(2),
      ...(one.units ? [one.units[place]] : []),
    ]);
    const truth = one.truth
      ? one.truth.labels.map((label, place) => [
          label,
          ...[0, 1].map((side) => (one.truth.times[2 * place + side] / 1000 + one.offset).toFixed(2)),
        ])
      : [];
    table.replaceChildren();
    const add = (name, columns, found) => {
      if (!found.length) return;
      const made = numbers(columns, found);
      made.querySelector("summary").textContent = name;
      table.append(made);
    };
    add("Syllables as a table", ["syllable", "start, s", "end, s", ...(one.units ? ["unit"] : [])], rows);
    add("Reference as a table", ["reference", "start, s", "end, s"], truth);
    for (const [name, found] of lanes.tables()) add(name, ["syllable", "start, s", "end, s"], found);
  }

  function tellTime() {
    time.textContent = `${clock(wave.getCurrentTime() + one.offset)} / ${clock(one.offset + one.shown)}`;
  }

  function showSilence(why) {
    view.hidden = true;
    silent.hidden = false;
    silent.textContent = `Nothing to hear: ${why}`;
    for (const control of controls.querySelectorAll("button")) control.disabled = true;
    time.textContent = "";
  }

  /** Show a recording, by its number in the data. */
  async function load(chosen) {
    stopClip();
    number = chosen;
    delete box.dataset.ready; // until its sound is there
    one = data.recordings[chosen];
    at = null;
    title.textContent = one.id;
    const kind =
      one.status === "ok" ? "ok" : ["unreadable", "missing", "failed"].includes(one.status) ? "bad" : "other";
    facts.replaceChildren(
      html("span", { class: `status ${kind}` }, one.status),
      html("span", {}, lasting(one.seconds)),
      html("span", {}, `${whole.format(one.num_syllables)} ${one.lanes.length ? "reference " : ""}syllables`),
    );
    if (one.shown < one.seconds) facts.append(html("span", {}, `the first ${lasting(one.shown)} are here`));
    if (one.truth && one.truth.f1 !== null)
      facts.append(
        html("span", {}, `F1 ${one.truth.f1} %`),
        html("span", {}, `${one.truth.missed.length} missed, ${one.truth.extra.length} extra`),
      );
    if (one.error) facts.append(html("span", { class: "status other" }, one.error));
    tell.replaceChildren();
    if (wave === null) create();
    else stopInterval(audio);
    fillTiers();
    fillTable();
    say(
      `${one.id}, ${one.status}, ${lasting(one.seconds)}, ${one.num_syllables} syllables${one.truth && one.truth.f1 !== null ? `, ${one.truth.missed.length} boundaries missed, ${one.truth.extra.length} extra` : ""}`,
    );
    const blob = await soundOf(chosen);
    if (number !== chosen) return;
    swatches.hidden = blob === null;
    if (blob === null) return showSilence(one.silence);
    view.hidden = false;
    silent.hidden = true;
    for (const control of controls.querySelectorAll("button")) control.disabled = false;
    try {
      await wave.loadBlob(blob);
    } catch (error) {
      if (error.name !== "AbortError") throw error; // another recording was chosen meanwhile
      return;
    }
    pixels = AT_FIRST_WIDE * one.shown > wave.getWidth() ? AT_FIRST_WIDE : 0;
    wave.zoom(pixels);
    wave.setScrollTime(0);
    wave.setPlaybackRate(rate, true);
    lay();
    tellTime();
    box.dataset.ready = String(chosen);
  }

  function mark(place) {
    at = place;
    const focused = over.contains(over.getRootNode().activeElement);
    [...over.children].forEach((button, other) => {
      button.toggleAttribute("aria-current", other === place);
      button.tabIndex = other === place ? 0 : -1;
      button.classList.toggle("same", one.units !== null && other !== place && one.units[other] === one.units[place]);
    });
    if (focused) over.children[place].focus();
    const long = Math.round(1000 * (end(place) - start(place)));
    const when = `${(start(place) + one.offset).toFixed(2)}–${(end(place) + one.offset).toFixed(2)} s`;
    const told = html("span", {}, html("b", {}, `Syllable ${place + 1}`), ` of ${count()} · ${when} · ${long} ms`);
    tell.replaceChildren(told);
    if (one.units)
      tell.append(
        html(
          "button",
          { type: "button", class: "chip-button", onclick: () => openUnit(one.units[place]) },
          `All of unit ${one.units[place]}`,
        ),
      );
    say(`syllable ${place + 1} of ${count()}, ${long} milliseconds${one.units ? `, unit ${one.units[place]}` : ""}`);
  }

  function playSyllable(place) {
    if (silent.hidden === false || !count()) return;
    stopClip();
    mark(place);
    if (pixels) {
      const middle = (start(place) + end(place)) / 2;
      const seen = wave.getWidth() / pixels;
      const left = wave.getScroll() / pixels;
      if (start(place) < left || end(place) > left + seen) wave.setScrollTime(Math.max(0, middle - seen / 2));
    }
    playInterval(audio, start(place), end(place));
  }

  function step(by) {
    if (one !== null && one.lanes.length) return lanes.step(by);
    if (one === null || !count()) return;
    let place = at === null ? (by > 0 ? 0 : count() - 1) : at + by;
    place = Math.min(count() - 1, Math.max(0, place));
    playSyllable(place);
  }

  function toggle() {
    if (one === null || !silent.hidden) return;
    stopClip();
    if (!audio.paused) return stopInterval(audio);
    turns.set(audio, (turns.get(audio) ?? 0) + 1); // it goes on, past the end of a syllable
    wave.play();
  }

  function changeSpeed(by) {
    rate = SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, SPEEDS.indexOf(rate) + by))];
    if (wave) wave.setPlaybackRate(rate, true);
    speed.textContent = `${rate}×`;
    say(`speed ${rate}`);
  }

  function zoom(factor) {
    if (one === null || box.dataset.ready !== String(number)) return;
    const fit = wave.getWidth() / one.shown;
    const middle = at === null ? wave.getCurrentTime() : (start(at) + end(at)) / 2;
    pixels = Math.min(CLOSEST, WIDEST / one.shown, Math.max(fit, (pixels || fit) * factor));
    wave.zoom(pixels);
    wave.setScrollTime(Math.max(0, middle - wave.getWidth() / pixels / 2));
    if (pixels <= fit) pixels = 0;
  }

  function recolour() {
    if (!wave) return;
    wave.setOptions(colours());
    drawSpectrogram();
  }

  return { box, load, step, toggle, changeSpeed, zoom, recolour, pause: () => stopInterval(audio) };
}
