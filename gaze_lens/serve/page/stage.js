// The picture and its regions: hover, click, drag. Boxes are [x0, y0, x1, y1] in the picture's own pixels.

import { Spotlight, SPOTLIGHT, SPOTLIGHT_COLOUR } from "/spotlight.js";
import { colour } from "/words.js";

const DRAG = 6; // CSS pixels before a press becomes a box
const LINGER = 120; // milliseconds on a region until it becomes the target, so that crossing a region does not steer
const SNAP = 0.8; // of the area of two boxes together that both have: from here on the named region is meant

const shared = (a, b) => {
  const side = (low, high) => Math.max(0, Math.min(a[high], b[high]) - Math.max(a[low], b[low]));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  const both = side(0, 2) * side(1, 3);
  return both / (area(a) + area(b) - both);
};

export class Stage {
  // changed: called where the target is another one, or elsewhere
  constructor(element, changed) {
    this.element = element;
    const [image, targets, rubber, spot] = ["#picture", "#targets", "#rubber", "#spot"].map(
      (id) => element.querySelector(id));
    Object.assign(this, { image, targets, rubber, changed, spotlight: new Spotlight(spot, this) });
    Object.assign(this, { key: null, most: 24, token: null, snap: true, tool: "regions", regions: new Map() });
    Object.assign(this, { colours: new Map(), target: null, held: false, press: null });
    element.addEventListener("pointerdown", (event) => this.begin(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.end(event));
    element.addEventListener("pointercancel", () => this.forget());
    element.addEventListener("pointerleave", () => this.leave());
    element.addEventListener("wheel", (event) => this.tool === SPOTLIGHT && this.spotlight.wheel(event),
      { passive: false });
  }

  // isWanted: asked when the picture is here; false where another one was asked for meanwhile
  async show(picture, alt, panels, isWanted) {
    // A strip of 192 pixels is drawn as large as the page allows, a photograph no larger than it is.
    const image = new Image();
    image.src = `/pictures/${picture.key}`;
    await image.decode();
    if (!isWanted()) return;
    Object.assign(this, { key: picture.key, width: picture.width, height: picture.height, captions: picture.captions });
    Object.assign(this, { alt, token: null });
    this.image.classList.toggle("small", picture.width < 600);
    this.image.style.setProperty("--width", picture.width < 600 ? "100vw" : `${picture.width}px`);
    this.image.style.setProperty("--ratio", picture.width / picture.height);
    Object.assign(this.image, { src: image.src, alt });
    const named = Object.entries(picture.regions);
    this.reset(named.length ? named : this.columns(panels));
    this.spotlight.fit();
  }

  // What `show` takes, to show the same again.
  picture() {
    const { key, width, height, captions } = this;
    return { key, width, height, captions, regions: this.boxes() };
  }

  columns(n) {
    const count = n >= 2 ? Math.min(n, 12, this.width) : 0;
    const edge = (index) => (index * this.width) / count;
    const box = (index) => [edge(index), 0, edge(index + 1), this.height];
    return Array.from({ length: count }, (_, index) => [`panel ${index + 1}`, box(index)]);
  }

  cut(n) {
    this.captions = {};
    this.reset(this.columns(n));
  }

  reset(entries) {
    this.regions = new Map(entries);
    this.colours = new Map();
    Object.assign(this, { target: null, held: false });
    this.spotlight.hide();
    this.draw();
    this.changed();
  }

  names() { return [...this.regions.keys()]; }
  boxes() { return Object.fromEntries(this.regions); }

  // Where the target is, as the server takes it; null where there is none.
  aim() {
    if (this.target === SPOTLIGHT) return { name: SPOTLIGHT, disc: this.spotlight.disc() };
    return this.regions.has(this.target) ? { name: this.target, box: this.regions.get(this.target) } : null;
  }

  area(name) {
    if (name === SPOTLIGHT) return Math.PI * this.spotlight.radius ** 2;
    const [x0, y0, x1, y1] = this.regions.get(name) ?? [0, 0, Infinity, 1];
    return (x1 - x0) * (y1 - y0);
  }

  // A region keeps its colour when others come and go.
  colour(name) {
    if (name === SPOTLIGHT) return SPOTLIGHT_COLOUR;
    if (!this.colours.has(name)) this.colours.set(name, this.colours.size);
    return colour(this.colours.get(name));
  }

  // The region that a box is meant to be; null where it is none of them.
  snapped(box) {
    if (!this.snap) return null;
    const best = this.names().sort((a, b) => shared(this.regions.get(b), box) - shared(this.regions.get(a), box))[0];
    return best !== undefined && shared(this.regions.get(best), box) >= SNAP ? best : null;
  }

  // Add a region from a box; its name, or null where the box is outside the picture.
  add([x0, y0, x1, y1]) {
    const fit = (value, most) => Math.round(Math.min(Math.max(value, 0), most) * 10) / 10;
    const box = [fit(Math.min(x0, x1), this.width), fit(Math.min(y0, y1), this.height),
      fit(Math.max(x0, x1), this.width), fit(Math.max(y0, y1), this.height)];
    if (!(box[2] > box[0] && box[3] > box[1])) return null;
    const drawn = this.names().filter((name) => name.startsWith("box "));
    const name = `box ${drawn.length ? Number(drawn.at(-1).slice(4)) + 1 : 1}`;
    if (this.regions.size >= this.most && drawn.length) this.regions.delete(drawn[0]);
    this.regions.set(name, box);
    this.draw();
    this.hold(name);
    return name;
  }

  // A box that was drawn. One that is smaller than a token was not meant: it holds none.
  drag(from, to) {
    const sides = [Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])];
    const least = (token, whole) => Math.min(token, whole / 2); // a small picture may have one row of tokens
    if (this.token && (sides[0] < least(this.token.width, this.width)
      || sides[1] < least(this.token.height, this.height))) return;
    const box = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]),
      Math.max(from[1], to[1])];
    const name = this.snapped(box);
    if (name === null) this.add(box);
    else this.hold(name);
  }

  remove(name) {
    if (!this.regions.delete(name)) return;
    this.draw();
    if (this.target === name) this.hold(null);
    else this.changed();
  }

  steerTo(name) {
    if (this.target === name) return;
    this.target = name;
    this.mark();
    this.changed();
  }

  hold(name) {
    this.held = name !== null;
    if (name !== SPOTLIGHT) this.spotlight.hide();
    this.steerTo(name);
    this.mark();
  }

  // A click on the held target follows the mouse again; a key press on it ends steering.
  toggle(name, released) {
    if (!this.held || this.target !== name) return this.hold(name);
    this.hold(released);
    this.held = false;
    this.mark();
  }

  light(name) {
    for (const button of this.targets.querySelectorAll(".target")) {
      button.classList.toggle("lit", button.region === name);
    }
  }

  draw() {
    const parts = this.names().flatMap((name) => (name.startsWith("box ")
      ? [this.button(name), this.cross(name)] : [this.button(name)]));
    this.targets.replaceChildren(...parts);
    this.mark();
  }

  button(name) {
    const [x0, y0, x1, y1] = this.regions.get(name);
    const button = document.createElement("button");
    const label = document.createElement("span");
    Object.assign(button, { type: "button", className: "target", region: name });
    Object.assign(label, { className: "name", textContent: name });
    button.append(label);
    if (this.captions[name]) button.title = this.captions[name];
    Object.assign(button.style, { left: this.across(x0), width: this.across(x1 - x0),
      top: this.down(y0), height: this.down(y1 - y0) });
    button.style.setProperty("--tint", this.colour(name));
    button.addEventListener("pointerenter", (event) => this.linger(name, event));
    button.addEventListener("pointerleave", () => clearTimeout(this.timer));
    button.addEventListener("keydown", (event) => {
      if (event.key === "Delete" && name.startsWith("box ")) this.remove(name);
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.toggle(name, null);
    });
    return button;
  }

  cross(name) {
    const [, y0, x1] = this.regions.get(name);
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "cross", textContent: "×", title: `Remove ${name}` });
    button.setAttribute("aria-label", `Remove ${name}`);
    Object.assign(button.style, { left: `max(24px, ${this.across(x1)})`, top: `min(100% - 24px, ${this.down(y0)})` });
    button.style.setProperty("--tint", this.colour(name));
    button.addEventListener("click", () => this.remove(name));
    return button;
  }

  across(x) { return `${(100 * x) / this.width}%`; }
  down(y) { return `${(100 * y) / this.height}%`; }

  mark() {
    for (const button of this.targets.querySelectorAll(".target")) {
      const current = button.region === this.target;
      button.setAttribute("aria-pressed", String(current));
      button.classList.toggle("held", current && this.held);
    }
    this.spotlight.mark();
  }

  linger(name, event) {
    clearTimeout(this.timer);
    if (this.tool === SPOTLIGHT || this.held || this.press || event.pointerType === "touch") return;
    this.timer = setTimeout(() => this.held || this.press || this.steerTo(name), LINGER);
  }

  leave() {
    clearTimeout(this.timer);
    if (this.held || this.press) return;
    this.timer = setTimeout(() => {
      if (this.held || this.press) return;
      this.spotlight.hide();
      this.steerTo(null);
    }, LINGER);
  }

  // Where an event is, in the picture's pixels.
  at(event) {
    const frame = this.image.getBoundingClientRect();
    const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    return [x * this.width, y * this.height];
  }

  // A finger taps; where it moves, the page scrolls.
  begin(event) {
    if (event.button !== 0 || !this.key || event.target.closest(".cross")) return;
    this.press = { x: event.clientX, y: event.clientY, from: this.at(event), dragged: false,
      touch: event.pointerType === "touch", name: event.target.closest(".target")?.region ?? null };
    if (!this.press.touch) this.element.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (this.tool === SPOTLIGHT) {
      clearTimeout(this.timer);
      if (this.key && event.pointerType !== "touch" && !this.held) this.spotlight.moveTo(this.at(event));
      return;
    }
    if (!this.press) return;
    const { x, y, touch } = this.press;
    if (Math.hypot(event.clientX - x, event.clientY - y) > DRAG) this.press.dragged = true;
    if (!this.press.dragged || touch) return;
    const frame = this.element.getBoundingClientRect();
    this.rubber.hidden = false;
    Object.assign(this.rubber.style, {
      left: `${Math.min(x, event.clientX) - frame.left}px`, top: `${Math.min(y, event.clientY) - frame.top}px`,
      width: `${Math.abs(event.clientX - x)}px`, height: `${Math.abs(event.clientY - y)}px` });
  }

  end(event) {
    const press = this.press;
    this.forget();
    if (!press) return;
    if (this.tool === SPOTLIGHT) return this.spotlight.press(this.at(event), press.touch);
    if (press.dragged) return press.touch || this.drag(press.from, this.at(event));
    if (press.name !== null) this.toggle(press.name, press.name);
  }

  forget() {
    this.press = null;
    this.rubber.hidden = true;
  }
}
