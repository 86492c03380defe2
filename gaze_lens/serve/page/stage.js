// The picture and its regions: hover, click, drag. Boxes are [x0, y0, x1, y1] in the picture's own pixels.

import { colour } from "/words.js";

const DRAG = 6; // CSS pixels before a press becomes a box
const LINGER = 120; // milliseconds on a region until it becomes the target, so that crossing a region does not steer

export class Stage {
  constructor(element, changed) {
    this.element = element;
    const [image, targets, rubber] = ["#picture", "#targets", "#rubber"].map((id) => element.querySelector(id));
    Object.assign(this, { image, targets, rubber });
    Object.assign(this, { changed, key: null, most: 24, regions: new Map(), target: null, held: false, press: null });
    element.addEventListener("pointerdown", (event) => this.begin(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.end(event));
    element.addEventListener("pointercancel", () => this.forget());
    element.addEventListener("pointerleave", () => this.linger(null));
  }

  async show(picture, alt, panels) {
    Object.assign(this, { key: picture.key, width: picture.width, height: picture.height, captions: picture.captions });
    this.image.classList.toggle("small", picture.width < 600);
    // A strip of 192 pixels is drawn as large as the page allows, a photograph no larger than it is.
    const width = picture.width < 600 ? 992 : picture.width;
    this.image.style.width = `min(${width}px, ${(60 * picture.width) / picture.height}vh)`;
    this.image.src = `/pictures/${picture.key}`;
    await this.image.decode();
    this.image.alt = alt;
    const named = Object.entries(picture.regions);
    this.reset(named.length ? named : this.columns(panels));
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
    Object.assign(this, { target: null, held: false });
    this.draw();
    this.changed();
  }

  names() { return [...this.regions.keys()]; }
  boxes() { return Object.fromEntries(this.regions); }
  region(name) { return this.regions.has(name) ? { name, box: this.regions.get(name) } : null; }
  area(name) {
    const [x0, y0, x1, y1] = this.regions.get(name) ?? [0, 0, Infinity, 1];
    return (x1 - x0) * (y1 - y0);
  }
  colour(name) { return colour(Math.max(0, this.names().indexOf(name))); }

  // Add a region from a box; its name, or null where the box is outside the picture.
  add([x0, y0, x1, y1]) {
    const fit = (value, most) => Math.round(Math.min(Math.max(value, 0), most) * 10) / 10;
    const box = [fit(Math.min(x0, x1), this.width), fit(Math.min(y0, y1), this.height),
      fit(Math.max(x0, x1), this.width), fit(Math.max(y0, y1), this.height)];
    if (!(box[2] > box[0] && box[3] > box[1])) return null;
    const drawn = this.names().filter((name) => name.startsWith("box "));
    const number = drawn.length ? Number(drawn.at(-1).slice(4)) + 1 : 1;
    if (this.regions.size >= this.most && drawn.length) this.regions.delete(drawn[0]);
    this.regions.set(`box ${number}`, box);
    this.draw();
    this.hold(`box ${number}`);
    return `box ${number}`;
  }

  steerTo(name) {
    if (this.target === name) return;
    this.target = name;
    this.mark();
    this.changed();
  }

  hold(name) {
    this.held = name !== null;
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
    for (const button of this.targets.children) button.classList.toggle("lit", button.region === name);
  }

  draw() {
    this.targets.replaceChildren(...this.names().map((name) => this.button(name)));
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
    const part = (value, whole) => `${(100 * value) / whole}%`;
    Object.assign(button.style, { left: part(x0, this.width), width: part(x1 - x0, this.width),
      top: part(y0, this.height), height: part(y1 - y0, this.height) });
    button.style.setProperty("--tint", this.colour(name));
    button.addEventListener("pointerenter", () => this.linger(name));
    button.addEventListener("pointerleave", () => clearTimeout(this.timer));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.toggle(name, null);
    });
    return button;
  }

  mark() {
    for (const button of this.targets.children) {
      const current = button.region === this.target;
      button.setAttribute("aria-pressed", String(current));
      button.classList.toggle("held", current && this.held);
    }
  }

  linger(name) {
    clearTimeout(this.timer);
    if (!this.held && !this.press) this.timer = setTimeout(() => this.held || this.press || this.steerTo(name), LINGER);
  }

  // Where an event is, in the picture's pixels.
  at(event) {
    const frame = this.image.getBoundingClientRect();
    const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    return [x * this.width, y * this.height];
  }

  begin(event) {
    if (event.button !== 0 || !this.key) return;
    this.press = { x: event.clientX, y: event.clientY, from: this.at(event), dragged: false,
      name: event.target.closest(".target")?.region ?? null };
    this.element.setPointerCapture(event.pointerId);
  }

  move(event) {
    if (!this.press) return;
    const { x, y } = this.press;
    if (Math.hypot(event.clientX - x, event.clientY - y) > DRAG) this.press.dragged = true;
    if (!this.press.dragged) return;
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
    if (press.dragged) this.add([...press.from, ...this.at(event)]);
    else if (press.name !== null) this.toggle(press.name, press.name);
  }

  forget() {
    this.press = null;
    this.rubber.hidden = true;
  }
}
