// All examples of one unit in a row, to hear whether they are one.

const AT_FIRST = 24;
const AROUND = 0.2; // seconds of context
const MOST_BARS = 60;
const PAUSE = 300; // milliseconds between two examples

function makeUnits(open) {
  const { units, recordings } = data;
  const examples = new Map();
  recordings.forEach((one, number) => {
    if (one.units === null || one.silence !== null) return;
    one.units.forEach((unit, place) => {
      if (!examples.has(unit)) examples.set(unit, []);
      examples.get(unit).push([number, place]);
    });
  });
  const most = units.counts[0][1];
  const bars = html("div", { class: "unitbars", role: "group", "aria-label": "The commonest units" });
  for (const [unit, times] of units.counts.slice(0, MOST_BARS)) {
    bars.append(
      html("button", {
        type: "button",
        "--share": (100 * times) / most,
        "aria-label": `unit ${unit}, ${times} times`,
        title: `unit ${unit}: ${whole.format(times)}`,
        "aria-pressed": "false",
        "data-unit": unit,
        onclick: () => choose(unit),
      }),
    );
  }
  roving(bars);
  const total = units.counts.reduce((sum, [, times]) => sum + times, 0);
  const ten = units.counts.slice(0, 10).reduce((sum, [, times]) => sum + times, 0);
  const told = `${whole.format(units.counts.length)} of ${whole.format(units.num_units)} units are used; the ten commonest make ${((100 * ten) / total).toFixed(0)} %; perplexity ${short(units.perplexity)}.`;
  const input = html("input", {
    id: "unit",
    type: "number",
    min: 0,
    step: 1,
    inputmode: "numeric",
    onchange: () => input.value !== "" && choose(input.valueAsNumber),
  });
  const around = html("input", { type: "checkbox", id: "around", onchange: () => draw() });
  const all = html(
    "button",
    { type: "button", class: "quiet", id: "play-all", onclick: () => (running ? stop() : playAll()) },
    "Play all",
  );
  const chooser = html(
    "div",
    { class: "chooser" },
    html("label", {}, "Unit", input),
    all,
    html("label", { class: "check" }, around, `with ${AROUND} s around`),
  );
  const heading = html("p", { class: "sub", role: "status", id: "examples" });
  const cards = html("div", { class: "cards" });
  const more = html("button", {
    type: "button",
    class: "more",
    onclick: () => {
      limit *= 4;
      draw();
    },
  });
  let unit = null;
  let limit = AT_FIRST;
  let running = false;

  const bounds = ([number, place]) => {
    const one = recordings[number];
    const wider = around.checked ? AROUND : 0;
    return [
      Math.max(0, one.times[2 * place] / 1000 - wider),
      Math.min(one.shown, one.times[2 * place + 1] / 1000 + wider),
    ];
  };

  async function play(example, card) {
    for (const other of cards.children) other.classList.remove("playing");
    card.classList.add("playing");
    const ended = await playClip(example[0], ...bounds(example));
    card.classList.remove("playing");
    return ended;
  }

  function stop() {
    running = false;
    all.textContent = "Play all";
    stopClip();
  }

  async function playAll() {
    running = true;
    all.textContent = "Stop";
    const found = examples.get(unit) ?? [];
    for (const [place, card] of [...cards.children].entries()) {
      card.scrollIntoView({ block: "nearest" });
      if (!running || !(await play(found[place], card))) break;
      await new Promise((done) => setTimeout(done, PAUSE));
    }
    running = false;
    all.textContent = "Play all";
  }

  async function paint(canvas, example) {
    const sound = await samplesOf(example[0]);
    const [start, end] = bounds(example).map((seconds) => Math.round(seconds * 16000));
    const [wide, tall] = [canvas.clientWidth * devicePixelRatio, canvas.clientHeight * devicePixelRatio];
    if (!wide) return;
    canvas.width = wide;
    canvas.height = tall;
    const context = canvas.getContext("2d");
    const part = sound.subarray(start, Math.max(end, start + 1));
    const peak = part.reduce((loudest, sample) => Math.max(loudest, Math.abs(sample)), 1e-4);
    const one = recordings[example[0]];
    const inside = [one.times[2 * example[1]], one.times[2 * example[1] + 1]].map(
      (time) => ((time * 16 - start) / part.length) * wide,
    );
    for (let x = 0; x < wide; x++) {
      let high = 0;
      for (let at = Math.floor((x * part.length) / wide); at < ((x + 1) * part.length) / wide; at++)
        high = Math.max(high, Math.abs(part[at]));
      const half = Math.max(devicePixelRatio / 2, (high / peak) * (tall / 2 - 1));
      context.fillStyle = x >= inside[0] && x <= inside[1] ? colours.in : colours.out;
      context.fillRect(x, tall / 2 - half, 1, 2 * half);
    }
  }

  let colours = { in: colour("--accent"), out: colour("--muted") };
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        paint(entry.target, entry.target.example);
      }
    },
    { rootMargin: "200px" },
  );

  function draw() {
    const found = examples.get(unit) ?? [];
    const times = units.counts.find(([other]) => other === unit)?.[1] ?? 0;
    heading.textContent = `Unit ${unit}: ${whole.format(times)} times in all, ${whole.format(found.length)} of them here`;
    for (const canvas of cards.querySelectorAll("canvas")) seen.unobserve(canvas);
    cards.replaceChildren(
      ...found.slice(0, limit).map((example) => {
        const one = recordings[example[0]];
        const start = one.times[2 * example[1]] / 1000;
        const long = one.times[2 * example[1] + 1] - one.times[2 * example[1]];
        const canvas = html("canvas", { "aria-hidden": "true" });
        canvas.example = example;
        const told = `${clock(start + one.offset)} · ${long} ms`;
        const card = html(
          "button",
          {
            type: "button",
            class: "card",
            "aria-label": `${one.id}, syllable ${example[1] + 1}, ${told}`,
            title: one.id,
            onclick: () => {
              stop();
              play(example, card);
            },
            ondblclick: () => open(example[0]),
          },
          canvas,
          html("span", {}, html("bdi", {}, one.id)),
          html("span", {}, told),
        );
        return card;
      }),
    );
    for (const canvas of cards.querySelectorAll("canvas")) seen.observe(canvas);
    roving(cards);
    more.hidden = found.length <= limit;
    more.textContent = `${whole.format(found.length - limit)} more`;
    all.disabled = !found.length;
  }

  function choose(chosen) {
    stop();
    unit = chosen;
    limit = AT_FIRST;
    input.value = chosen;
    for (const bar of bars.children) bar.setAttribute("aria-pressed", String(bar.dataset.unit === String(chosen)));
    draw();
  }

  const box = html(
    "div",
    { class: "panel wide" },
    html("h3", {}, "Which there are"),
    html("p", { class: "sub" }, told),
    bars,
    chooser,
    heading,
    cards,
    more,
  );
  const common = units.counts.find(([one]) => (examples.get(one) ?? []).length > 1) ?? units.counts[0];
  choose(common[0]);
  return {
    box,
    choose,
    stop,
    recolour: () => {
      colours = { in: colour("--accent"), out: colour("--muted") };
      draw();
    },
  };
}
