// Words from tokens, tinted by the region with most of the heads' attention. Text is only ever set as textContent.

// After Okabe and Ito: distinct also to colour-blind readers, and bright enough for dark text on them.
const COLOURS = ["#e69f00", "#56b4e9", "#2fbf8f", "#f0e442", "#6a8fe8", "#e8743b", "#d98cba", "#a9a9a9"];
const INSIDE = /^[\p{L}\p{M}\p{N}'’]/u;
const LONGEST = 8; // tokens in a word, at most
const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u; // scripts without spaces

export const colour = (index) => COLOURS[index % COLOURS.length];
export const percent = (share) => `${(100 * share).toFixed(0)} %`;

export class Words {
  // stage: knows the colour and the area of every region
  constructor(element, stage) {
    Object.assign(this, { element, stage, spans: [], target: null });
    this.element.replaceChildren();
  }

  add(event) {
    const target = event.target ?? null; // an unsteered answer has none
    if (target !== this.target) this.mark(target);
    const last = this.spans.at(-1);
    if (last && this.continues(last, event.text)) return this.join(last, event);
    const [, gap, text] = /^(\s*)(.*)$/s.exec(event.text);
    if (gap) this.element.append(gap);
    if (!text) return null;
    const span = document.createElement("span");
    Object.assign(span, { className: "word", textContent: text, parts: [event] });
    if (target !== null) span.style.setProperty("--aim", this.stage.colour(target));
    this.tint(span);
    this.spans.push(span);
    this.element.append(span);
    return span;
  }

  // Whether a token continues a word.
  continues(span, text) {
    const open = span === this.element.lastChild && span.parts.length < LONGEST;
    return open && INSIDE.test(span.textContent.slice(-1)) && INSIDE.test(text) && !UNSPACED.test(text);
  }

  join(span, event) {
    span.textContent += event.text;
    span.parts.push(event);
    this.tint(span);
    return span;
  }

  // Where the target changes.
  mark(target) {
    const chip = document.createElement("span");
    chip.className = target === null ? "switch none" : "switch";
    chip.textContent = target === null ? "▸ no target" : `▸ ${target}`;
    if (target !== null) chip.style.setProperty("--tint", this.stage.colour(target));
    this.element.append(chip);
    this.target = target;
  }

  // The mean mass of a word's tokens on each region, and on the whole picture.
  mass(span) {
    const mean = {};
    for (const part of span.parts) {
      for (const [name, mass] of Object.entries(part.mass)) mean[name] = (mean[name] || 0) + mass / span.parts.length;
    }
    const image = span.parts.reduce((sum, part) => sum + part.image, 0) / span.parts.length;
    return { regions: Object.entries(mean).sort((a, b) => b[1] - a[1]), image };
  }

  // A box in a panel may have all of the attention, as has the panel: of the regions with about the most, the smallest.
  strongest(span) {
    const { regions } = this.mass(span);
    const most = regions.filter(([, mass]) => mass >= 0.9 * regions[0][1]);
    return most.sort((a, b) => this.stage.area(a[0]) - this.stage.area(b[0]))[0];
  }

  tint(span) {
    const strongest = this.strongest(span);
    span.classList.toggle("plain", !strongest || strongest[1] < 0.05);
    if (!strongest) return;
    span.dataset.region = strongest[0];
    span.style.setProperty("--tint", this.stage.colour(strongest[0]));
    span.style.setProperty("--share", strongest[1].toFixed(3));
  }

  describe(span) {
    const { regions, image } = this.mass(span);
    const largest = regions.filter(([, mass]) => mass >= 0.005).slice(0, 3);
    const shown = largest.map(([name, mass]) => `${name} ${percent(mass)}`).join(", ");
    return `“${span.textContent.trim()}”: ${shown}${shown && "; "}whole picture ${percent(image)}`;
  }
}
