// A line chart: one value an hour, drawn as SVG. Text is text nodes; colours come from the style sheet.

import { attribute, find, say, svg } from "./dom.js";
import { hour, monthDay, moment } from "./format.js";

const USUAL_WIDTH = 640;
const HEIGHT = 240;
const LEFT = 58;
const RIGHT = 14;
const TOP = 10;
const BOTTOM = 44;
const MOST_TICKS = 12;
const TICK_WIDTH = 46;
const LINES = 4;

export class Chart {
  /** `write(value)` for the axis, `tell(value)` for the point that is pointed at. */
  constructor(id, { write, tell, least }) {
    Object.assign(this, { write, tell, least, points: [] });
    this.host = document.getElementById(id);
    this.title = find("figcaption", this.host).textContent;
    this.note = find(".chart-note", this.host);
    this.place = find(".chart-place", this.host);
    new ResizeObserver(() => this.points.length && this.draw(this.points)).observe(this.place);
  }

  say(text) {
    say(this.note, text);
  }

  /** `points`: `{at, value}` in order of time. */
  draw(points) {
    this.points = points;
    this.width = this.place.clientWidth || USUAL_WIDTH;
    this.top = ceiling(Math.max(this.least, ...points.map((point) => point.value)));
    this.drawing ??= this.#begin();
    attribute(this.drawing.root, "viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const { lines, ticks, area, line } = this.drawing;
    lines.replaceChildren(...this.#lines());
    ticks.replaceChildren(...this.#ticks());
    const path = points.map((point, index) => `${this.#x(index)},${this.#y(point.value)}`).join("L");
    attribute(line, "d", `M${path}`);
    attribute(area, "d", `M${path}V${HEIGHT - BOTTOM}H${LEFT}Z`);
    const sum = `${this.tell(points.reduce((all, point) => all + point.value, 0))} in the last ${points.length} hours`;
    attribute(this.drawing.root, "aria-label", `${this.title}: ${sum}`);
    if (this.pointed === undefined) this.say(sum);
    else this.#point(this.pointed);
  }

  #begin() {
    const lines = svg("g");
    const ticks = svg("g");
    const area = svg("path", { class: "area" });
    const line = svg("path", { class: "line" });
    const spot = svg("circle", { class: "spot", r: 5, visibility: "hidden" });
    const root = svg("svg", { height: HEIGHT, role: "img", tabindex: 0 }, lines, ticks, area, line, spot);
    root.addEventListener("pointermove", (event) => this.#point(this.#nearest(event)));
    root.addEventListener("pointerleave", () => this.#leave());
    root.addEventListener("blur", () => this.#leave());
    root.addEventListener("keydown", (event) => this.#step(event));
    this.place.replaceChildren(root);
    return { root, lines, ticks, area, line, spot };
  }

  #x(index) {
    const wide = this.width - LEFT - RIGHT;
    return (LEFT + (wide * index) / Math.max(this.points.length - 1, 1)).toFixed(1);
  }

  #y(value) {
    const high = HEIGHT - TOP - BOTTOM;
    return (TOP + high * (1 - value / this.top)).toFixed(1);
  }

  #lines() {
    return Array.from({ length: LINES + 1 }, (_, index) => (this.top * index) / LINES).flatMap((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: this.#y(value), y2: this.#y(value) }),
      svg("text", { class: "tick", x: LEFT - 8, y: Number(this.#y(value)) + 4, "text-anchor": "end" }, this.write(value)),
    ]);
  }

  #ticks() {
    const most = Math.min(MOST_TICKS, Math.floor(this.width / TICK_WIDTH));
    const every = Math.ceil(this.points.length / most);
    return this.points.flatMap((point, index) => {
      if (index % every) return [];
      const place = { class: "tick", x: this.#x(index), "text-anchor": "middle" };
      return [
        svg("text", { ...place, y: HEIGHT - BOTTOM + 20 }, hour(point.at)),
        svg("text", { ...place, y: HEIGHT - BOTTOM + 34 }, monthDay(point.at)),
      ];
    });
  }

  #nearest(event) {
    const box = this.drawing.root.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * this.width - LEFT) / (this.width - LEFT - RIGHT);
    return Math.min(this.points.length - 1, Math.max(0, Math.round(share * (this.points.length - 1))));
  }

  #point(index) {
    const point = this.points[index];
    this.pointed = index;
    const { spot } = this.drawing;
    attribute(spot, "cx", this.#x(index));
    attribute(spot, "cy", this.#y(point.value));
    attribute(spot, "visibility", "visible");
    this.say(`${this.tell(point.value)} · ${moment(point.at).slice(0, -3)}`);
  }

  #step(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const last = this.points.length - 1;
    this.#point(Math.min(last, Math.max(0, (this.pointed ?? last - step) + step)));
  }

  #leave() {
    this.pointed = undefined;
    attribute(this.drawing.spot, "visibility", "hidden");
    this.draw(this.points);
  }
}

/** The next number above that is easy to divide by four. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 8, 10].find((step) => step * power >= value) * power;
}
