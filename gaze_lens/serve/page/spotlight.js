// A disc at the cursor, in the picture's own pixels. The wheel changes its radius; a click holds it where it is.

export const SPOTLIGHT = "spotlight"; // the name of the target, and of the tool
export const SPOTLIGHT_COLOUR = "#c9a0ff";

export class Spotlight {
  // stage: has the picture, and the target that the spotlight becomes
  constructor(element, stage) {
    Object.assign(this, { element, stage, x: 0, y: 0, radius: 16, resized: () => null });
    element.style.setProperty("--tint", SPOTLIGHT_COLOUR);
  }

  // A radius that suits the picture: half a region, or a sixth of a picture without regions.
  fit() {
    const { width, height, regions } = this.stage;
    const [first] = regions.values();
    const sides = first ? [first[2] - first[0], first[3] - first[1]] : [width / 3, height / 3];
    this.resize(Math.min(...sides) / 2);
  }

  // Smaller than half the diagonal of a token it could hold no token's centre.
  bounds() {
    const { width, height, token } = this.stage;
    return [token ? Math.hypot(token.width, token.height) / 2 : 1, Math.max(width, height) / 2];
  }

  resize(radius) {
    const [least, most] = this.bounds();
    this.radius = Math.round(10 * Math.min(Math.max(radius, least), most)) / 10;
    if (!this.element.hidden) this.aim();
    this.resized();
  }

  disc() { return [this.x, this.y, this.radius]; }

  wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    this.resize(this.radius * Math.exp(-0.0015 * lines * event.deltaY));
  }

  moveTo([x, y]) {
    const fit = (value, most) => Math.round(10 * Math.min(Math.max(value, 0), most)) / 10;
    [this.x, this.y] = [fit(x, this.stage.width), fit(y, this.stage.height)];
    this.aim();
  }

  // A click holds the spotlight, or lets it follow the mouse again; a tap puts it there.
  press(at, touch) {
    if (touch) this.moveTo(at);
    this.stage.held = touch || !this.stage.held;
    if (!this.stage.held) this.moveTo(at);
    this.stage.mark();
  }

  // The target is the disc, or the region that has about its place and size.
  aim() {
    const { stage, x, y, radius } = this;
    const name = stage.snapped([x - radius, y - radius, x + radius, y + radius]) ?? SPOTLIGHT;
    this.draw();
    if (name !== SPOTLIGHT || stage.target !== SPOTLIGHT) stage.steerTo(name);
    else stage.changed();
  }

  draw() {
    const { stage, x, y, radius } = this;
    this.element.hidden = false;
    Object.assign(this.element.style, { left: stage.across(x), top: stage.down(y),
      width: stage.across(2 * radius), height: stage.down(2 * radius) });
  }

  hide() { this.element.hidden = true; }
  mark() { this.element.classList.toggle("held", this.stage.held); }
}
