// The answer that is being written, its baseline beside it, and the numbers of their words.

import { Words } from "/words.js";

class Pane {
  constructor(element, stage, reading) {
    Object.assign(this, { element, stage, reading });
    this.clear();
    element.addEventListener("pointerover", (event) => {
      const index = this.words.spans.indexOf(event.target);
      if (index >= 0) this.point(index);
    });
    for (const kind of ["pointerleave", "blur"]) element.addEventListener(kind, () => stage.light(null));
    element.addEventListener("keydown", (event) => {
      const moved = { ArrowRight: this.read + 1, ArrowLeft: this.read - 1, Home: 0, End: Infinity }[event.key];
      if (moved === undefined) return;
      event.preventDefault();
      this.point(moved);
    });
  }

  clear() { Object.assign(this, { words: new Words(this.element, this.stage), read: -1 }); }

  point(index) {
    const { spans } = this.words;
    if (!spans.length) return;
    this.unmark();
    this.read = Math.max(0, Math.min(spans.length - 1, index));
    const span = spans[this.read];
    span.classList.add("read");
    this.reading.textContent = this.words.describe(span);
    this.stage.light(span.dataset.region);
  }

  unmark() { this.words.spans[this.read]?.classList.remove("read"); }

  nodes() {
    this.unmark();
    return this.words.spans.length ? this.element.childNodes : [];
  }
}

export class Answers {
  constructor({ answer, baseline, free, reading }, stage) {
    Object.assign(this, { free, reading, question: "" });
    [this.steered, this.unsteered] = [answer, baseline].map((element) => new Pane(element, stage, reading));
  }

  begin(question, beside) {
    Object.assign(this, { question });
    this.steered.clear();
    this.unsteered.clear();
    this.reading.textContent = "";
    this.free.hidden = !beside;
  }

  add(event) { (event.kind === "baseline" ? this.unsteered : this.steered).words.add(event); }

  // What was written, for the history.
  parts() { return { Steered: this.steered.nodes(), Unsteered: this.unsteered.nodes() }; }
}
