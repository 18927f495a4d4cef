// Bars, parts of a whole, and curves, as SVG that follows the theme and can be read aloud.

/** Ticks at 1, 2 or 5 times a power of ten, about so many. */
function ticks(low, high, about) {
  const least = (high - low) / about || 1;
  const scale = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((factor) => factor * scale).find((size) => size >= least * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-6; at++)
    found.push(Number((at * step).toPrecision(12)));
  return found;
}

function numbers(columns, rows) {
  const head = html("tr", {}, ...columns.map((name) => html("th", { scope: "col" }, name)));
  const body = rows.map((row) => html("tr", {}, ...row.map((cell) => html("td", {}, String(cell)))));
  const table = html("table", {}, html("thead", {}, head), html("tbody", {}, ...body));
  return html("details", {}, html("summary", {}, "Numbers"), html("div", { class: "scroll", tabindex: 0 }, table));
}

function histogram(one) {
  const [width, height, foot] = [360, 170, 24];
  const { edges, counts, beyond } = one;
  const first = edges[0];
  const last = edges[edges.length - 1];
  const slots = counts.length + (beyond ? 1 : 0);
  const most = Math.max(1, beyond, ...counts);
  const step = width / slots;
  const gap = Math.min(2, step * 0.2);
  const x = (value) => ((value - first) / (last - first)) * step * counts.length;
  const total = counts.reduce((sum, count) => sum + count, beyond);
  const range = (place) =>
    place < counts.length
      ? `${short(edges[place])} to ${short(edges[place + 1])} ${one.unit}`
      : `over ${short(last)} ${one.unit}`;
  const middle = one.middle === null ? "" : `median ${short(one.middle)} ${one.unit}`;
  const chart = svg("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `${one.title}: ${whole.format(total)} in ${slots} bins, ${middle}`,
  });
  [...counts, ...(beyond ? [beyond] : [])].forEach((count, place) => {
    const tall = (count / most) * (height - foot - 14);
    const title = svg("title", {}, `${range(place)}: ${whole.format(count)}`);
    const bar = {
      class: "bar",
      x: place * step + gap / 2,
      width: step - gap,
      y: height - foot - tall,
      height: tall,
      rx: Math.min(2, tall),
    };
    chart.append(svg("rect", bar, title));
  });
  chart.append(svg("line", { class: "axis", x1: 0, x2: width, y1: height - foot + 0.5, y2: height - foot + 0.5 }));
  for (const at of ticks(first, last, 6)) {
    if (x(at) < width - 30)
      chart.append(svg("text", { x: x(at), y: height - 8, "text-anchor": x(at) < 8 ? "start" : "middle" }, short(at)));
  }
  chart.append(
    svg("text", { x: width, y: height - 8, "text-anchor": "end" }, beyond ? `> ${short(last)} ${one.unit}` : one.unit),
  );
  if (one.middle !== null && one.middle <= last) {
    const at = Math.max(0, x(one.middle));
    chart.append(svg("line", { class: "middle", x1: at, x2: at, y1: 8, y2: height - foot }));
  }
  const rows = [...counts, ...(beyond ? [beyond] : [])]
    .map((count, place) => [range(place), whole.format(count)])
    .filter((row) => row[1] !== "0");
  return panel(one.title, middle, chart, numbers([one.unit, "how many"], rows));
}

const PART_COLOURS = ["--accent", "--truth", "--good", "--miss", "--muted", "--wave", "--line"];
/** Parts of a whole: [[name, size]], in one bar with a legend; `tell` makes the text of a size. */
function partsOf(label, entries, tell, colours = PART_COLOURS) {
  const total = entries.reduce((sum, [, size]) => sum + size, 0) || 1;
  const fill = (place) => `var(${colours[place % colours.length]})`;
  const bar = html("div", { class: "parts", "aria-hidden": "true" });
  const legend = html("ul", { class: "legend", "aria-label": label });
  entries.forEach(([name, size], place) => {
    const part = html("span", { "--part": fill(place), title: `${name}: ${tell(size)}` });
    part.style.flex = `${size / total}`;
    bar.append(part);
    const share = html(
      "span",
      { class: "unit" },
      `${((100 * size) / total).toFixed(size && size / total < 0.1 ? 1 : 0)} %`,
    );
    legend.append(html("li", { "--part": fill(place) }, html("span", {}, name), html("b", {}, tell(size)), share));
  });
  return [bar, legend];
}

const DASHES = ["", "6 3", "2 3"];
/** Curves over steps, with a line that follows pointer and arrow keys and tells the values there. */
function curves(one, alarms, best) {
  const [width, height, left, foot] = [520, 230, 46, 24];
  const all = one.points.flatMap(([, values]) => values);
  const steps = one.points.flatMap(([found]) => found);
  const [from, to] = [Math.min(...steps), Math.max(...steps)];
  let [low, high] = [Math.min(...all), Math.max(...all)];
  if (low === high) [low, high] = [low - Math.abs(low) * 0.1 - 1e-9, high + Math.abs(high) * 0.1 + 1e-9];
  const x = (step) => left + ((step - from) / (to - from || 1)) * (width - left - 8);
  const y = (value) => 10 + (1 - (value - low) / (high - low)) * (height - foot - 18);
  const last = one.points
    .map(([, values], place) => `${one.names[place]} ${short(values[values.length - 1])}`)
    .join(", ");
  const chart = svg("svg", {
    class: "chart curves",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    tabindex: 0,
    "aria-label": `${one.title}, steps ${from} to ${to}; at the end ${last}. Arrow keys read values.`,
  });
  for (const at of ticks(low, high, 5)) {
    chart.append(svg("line", { class: "axis", x1: left, x2: width - 8, y1: y(at), y2: y(at) }));
    chart.append(svg("text", { x: left - 7, y: y(at) + 3.5, "text-anchor": "end" }, short(at)));
  }
  for (const at of ticks(from, to, 7))
    chart.append(svg("text", { x: x(at), y: height - 6, "text-anchor": "middle" }, short(at)));
  for (const [begin, end] of alarms) {
    const wide = Math.max(3, x(end) - x(begin));
    chart.append(svg("rect", { class: "alarm", x: x(begin), width: wide, y: 4, height: height - foot - 6 }));
    chart.append(svg("text", { class: "alarm-name", x: x(begin) + 4, y: 16 }, "collapse"));
  }
  if (best !== null) {
    chart.append(svg("line", { class: "best", x1: x(best), x2: x(best), y1: 4, y2: height - foot - 2 }));
    const side = x(best) > width - 60 ? "end" : "start";
    chart.append(
      svg(
        "text",
        { class: "best-name", x: x(best) + (side === "end" ? -4 : 4), y: height - foot - 8, "text-anchor": side },
        "best",
      ),
    );
  }
  one.points.forEach(([at, values], place) => {
    const path = at
      .map((step, point) => `${point ? "L" : "M"}${x(step).toFixed(1)} ${y(values[point]).toFixed(1)}`)
      .join("");
    chart.append(
      svg("path", { class: "curve", d: path, stroke: `var(--series-${place + 1})`, "stroke-dasharray": DASHES[place] }),
    );
  });
  const line = svg("line", { class: "reading", y1: 4, y2: height - foot - 2, visibility: "hidden" });
  chart.append(line);
  const read = html("p", { class: "read" });
  const axis = [...new Set(steps)].sort((one, other) => one - other);
  let place = axis.length - 1;
  const tell = (shown) => {
    const step = axis[place];
    line.setAttribute("visibility", shown ? "visible" : "hidden");
    line.setAttribute("x1", x(step));
    line.setAttribute("x2", x(step));
    const told = one.points.map(([at, values], curve) => {
      let near = 0;
      at.forEach((candidate, point) => {
        if (Math.abs(candidate - step) < Math.abs(at[near] - step)) near = point;
      });
      const swatch = html("i", { "--c": `var(--series-${curve + 1})` });
      swatch.style.borderTopColor = "var(--c)";
      swatch.style.borderTopStyle = ["solid", "dashed", "dotted"][curve];
      return html("span", {}, swatch, one.names[curve], " ", html("b", {}, short(values[near])));
    });
    read.replaceChildren(html("span", {}, `step ${whole.format(step)}`), ...told);
  };
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    place = axis.reduce(
      (near, step, candidate) => (Math.abs(x(step) - at) < Math.abs(x(axis[near]) - at) ? candidate : near),
      0,
    );
    tell(true);
  });
  const rest = () => {
    place = axis.length - 1;
    tell(false);
  };
  chart.addEventListener("pointerleave", rest);
  chart.addEventListener("blur", rest);
  chart.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    place = Math.min(axis.length - 1, Math.max(0, place + move));
    tell(true);
    say(read.textContent);
  });
  rest();
  return panel(one.title, null, chart, read);
}
