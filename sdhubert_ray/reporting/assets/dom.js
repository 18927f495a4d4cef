"use strict";
// Elements, numbers as text, and what a screen reader is told. Texts become text nodes, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const parsed = new Promise((done) => {
  if (document.readyState !== "loading") done();
  else document.addEventListener("DOMContentLoaded", done, { once: true });
});

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An HTML element with attributes (`onclick` and its like are listeners) and children, texts or elements. */
function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element, likewise. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

const whole = new Intl.NumberFormat("en");
/** A number with as many digits as tell something. */
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return whole.format(Math.round(value));
  if (size === 0 || Number.isInteger(value)) return String(value);
  if (size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

/** Seconds as people read them. */
function lasting(seconds) {
  if (seconds >= 3600) return `${(seconds / 3600).toFixed(1)} h`;
  if (seconds >= 60) return `${(seconds / 60).toFixed(1)} min`;
  return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
}

/** Seconds as a clock shows them: 0:02.48. */
function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(2).padStart(5, "0")}`;
}

const live = document.getElementById("live");
/** Say it to who does not see. */
function say(text) {
  live.textContent = text;
}

/** A colour of the style sheet as a canvas takes it, in the present theme. */
function colour(name) {
  const probe = html("span", { "--probe": `var(${name})` });
  probe.style.color = "var(--probe)";
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Make the buttons of a container one stop of the Tab key, with arrow keys, Home and End from one to the next. */
function roving(container) {
  const buttons = () => [...container.querySelectorAll("button")];
  buttons().forEach((button, place) => (button.tabIndex = place ? -1 : 0));
  container.addEventListener("focusin", (event) => {
    for (const button of buttons()) button.tabIndex = button === event.target ? 0 : -1;
  });
  container.addEventListener("keydown", (event) => {
    const all = buttons();
    const place = all.indexOf(event.target);
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: all.length - 1 }[event.key];
    if (place < 0 || to === undefined || !all[to]) return;
    event.preventDefault();
    event.stopPropagation();
    all[to].focus();
  });
}

/** A section of the page, with its link above. */
function section(id, title, lead, ...children) {
  const heading = html("h2", { id: `${id}-title` }, title);
  const made = html("section", { id, "aria-labelledby": `${id}-title` }, heading);
  if (lead) made.append(html("p", { class: "lead" }, lead));
  made.append(...children.filter(Boolean));
  document.getElementById("sections").append(made);
  document.getElementById("nav").append(html("a", { href: `#${id}` }, title));
  return made;
}

function panel(title, sub, ...children) {
  return html(
    "div",
    { class: "panel" },
    html("h3", {}, title),
    sub ? html("p", { class: "sub" }, sub) : null,
    ...children,
  );
}
