// The image-attention viewer, for notebooks (anywidget calls `render`) and saved pages (which call `mountPage`).
// Text of models and users goes into the page as text nodes and attributes only, never as HTML.

const HEAT = [[0, 255, 209, 102, 0], [0.15, 255, 184, 77, 0.5], [0.5, 240, 100, 40, 0.68], [1, 165, 10, 0, 0.86]];
const SVG = "http://www.w3.org/2000/svg";
const VALUES = {
  raw: { label: "attention", unit: "attention mass on an image token, 0–1" },
  weighted: { label: "attention × value norm", unit: "attention × norm of the token's value vector" },
  share: { label: "share of the word's attention to images", unit: "share of what the word pays to all image tokens" },
};
const MODES = {
  boost_and_suppress: "boost the region, suppress the rest of the image",
  suppress_image: "suppress the rest of the image",
  suppress_all: "suppress the rest of the image and the prompt",
  max_suppress_all: "suppress everything else",
};

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function draw(tag, properties) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) node.setAttribute(name, value);
  return node;
}

function choice(label, options, value, change) {
  const select = make("select", { onchange: () => change(select.value) });
  for (const [name, text] of options) select.append(make("option", { value: name, selected: name === value }, text));
  return make("label", {}, label + " ", select);
}

const number = (value) => (value >= 0.0995 || value === 0 ? value.toFixed(2) : value.toPrecision(2));
// At most six characters, the width of .chip: with a wider text for some words, everything below would jump.
const brief = (value) => (value > 0 && value < 0.001 ? "<0.001" : number(value));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const visible = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥").trim() || "␣";

const PALETTE = Array.from({ length: 256 }, (_, level) => {
  const at = level / 255;
  const after = Math.max(1, HEAT.findIndex(([stop]) => stop >= at));
  const [low, high] = [HEAT[after - 1], HEAT[after]];
  const mix = (i) => low[i] + ((at - low[0]) / (high[0] - low[0])) * (high[i] - low[i]);
  return `rgba(${mix(1).toFixed(0)},${mix(2).toFixed(0)},${mix(3).toFixed(0)},${mix(4).toFixed(3)})`;
});
const heat = (share) => PALETTE[clamp(Math.round(share * 255), 0, 255)];

// --- data ------------------------------------------------------------------------------------------------------------

async function unpack(bytes, header) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const [nHeads, nWords, nTokens] = header.shape;
  const nNorms = header.weighted ? nHeads * nTokens : 0;
  return {
    scales: new Float32Array(buffer, 0, nHeads * nWords),
    norms: nNorms ? new Float32Array(buffer, 4 * nHeads * nWords, nNorms) : null,
    levels: new Uint8Array(buffer, 4 * (nHeads * nWords + nNorms)),
  };
}

/** The mean over the selected heads, [word, token], as one array. Everything on the page is drawn from it. */
class MeanAttention {
  constructor(header, arrays) {
    Object.assign(this, arrays);
    [this.nHeads, this.nWords, this.nTokens] = header.shape;
  }

  select(heads, kind) {
    const { nWords, nTokens } = this;
    this.mean = new Float32Array(nWords * nTokens);
    for (const head of heads) this.add(head, heads.length, kind === "weighted" ? this.norms : null);
    this.totals = new Float32Array(nWords);
    this.tops = new Float32Array(nWords);
    for (let word = 0; word < nWords; word++) this.finish(this.row(word), word, kind === "share");
    this.top = this.tops.reduce((a, b) => Math.max(a, b), 0);
  }

  add(head, nSelected, norms) {
    const { nWords, nTokens, levels, mean } = this;
    for (let word = 0; word < nWords; word++) {
      const scale = this.scales[head * nWords + word] / nSelected;
      const [from, to, norm] = [(head * nWords + word) * nTokens, word * nTokens, head * nTokens];
      if (scale === 0) continue;
      for (let token = 0; token < nTokens; token++) {
        const level = levels[from + token];
        mean[to + token] += scale * level * level * (norms ? norms[norm + token] : 1);
      }
    }
  }

  finish(row, word, share) {
    let total = row.reduce((a, b) => a + b, 0);
    if (share && total > 0) {
      for (let token = 0; token < row.length; token++) row[token] /= total;
      total = 1;
    }
    this.totals[word] = total;
    this.tops[word] = row.reduce((a, b) => Math.max(a, b), 0);
  }

  row(word) {
    return this.mean.subarray(word * this.nTokens, (word + 1) * this.nTokens);
  }

  on(word, tokens) {
    const row = this.row(word);
    let sum = 0;
    for (const token of tokens) sum += row[token];
    return sum;
  }
}

// --- pictures --------------------------------------------------------------------------------------------------------

/** The picture, cut at every edge of a token's box: each piece with the tokens that cover it (views may overlap). */
function piecesOf(boxes) {
  const boxed = boxes.filter(([, box]) => box);
  const cuts = (i) => [...new Set(boxed.flatMap(([, box]) => [box[i], box[i + 2]]))].sort((a, b) => a - b);
  const [xs, ys] = [cuts(0), cuts(1)];
  const [columns, rows] = [new Map(xs.map((x, i) => [x, i])), new Map(ys.map((y, i) => [y, i]))];
  const owners = new Map();
  for (const [token, [x0, y0, x1, y1]] of boxed) {
    for (let row = rows.get(y0); row < rows.get(y1); row++) {
      for (let column = columns.get(x0); column < columns.get(x1); column++) {
        const at = row * xs.length + column;
        if (owners.has(at)) owners.get(at).push(token);
        else owners.set(at, [token]);
      }
    }
  }
  return [...owners].map(([at, tokens]) => {
    const [row, column] = [Math.floor(at / xs.length), at % xs.length];
    return { box: [xs[column], ys[row], xs[column + 1], ys[row + 1]], tokens };
  });
}

/** One image under its heat map. Reports where the mouse, the arrow keys and a drag are, in original pixels. */
class Picture {
  constructor(about, index, header, actions) {
    [this.width, this.height] = about.size;
    this.boxes = header.tokens.boxes.map((box, i) => [i, box]).filter(([i]) => header.tokens.image[i] === index);
    this.pieces = piecesOf(this.boxes);
    this.actions = actions;
    this.index = index;
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.lines = draw("svg", { viewBox: `0 0 ${this.width} ${this.height}`, preserveAspectRatio: "none" });
    for (const region of header.regions.filter((one) => one.image === index)) {
      for (const line of region.outline) {
        this.lines.append(draw("polyline", { points: line.join(" "), class: "outline" }));
      }
    }
    this.marks = this.lines.appendChild(draw("g", {}));
    const image = make("img", { src: about.src, alt: about.alt, draggable: "false" });
    this.frame = make("div", {
      class: "picture", tabindex: "0", role: "application", "data-image": index,
      "aria-label": `${about.alt} Arrow keys move over it, Enter selects.`,
      style: `--ratio: ${this.width / this.height}`,
    }, image, this.canvas, this.lines);
    this.listen();
  }

  listen() {
    const { frame } = this;
    frame.addEventListener("pointermove", (event) => this.move(this.point(event)));
    frame.addEventListener("pointerleave", () => this.from || this.actions.leave());
    frame.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      frame.setPointerCapture(event.pointerId);
      this.from = this.point(event);
    });
    frame.addEventListener("pointerup", (event) => this.drop(this.point(event)));
    frame.addEventListener("pointercancel", () => { this.from = null; });
    frame.addEventListener("keydown", (event) => this.key(event));
    frame.addEventListener("blur", () => this.actions.leave());
  }

  point(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - left) / width) * this.width;
    const y = ((event.clientY - top) / height) * this.height;
    return [clamp(x, 0, this.width), clamp(y, 0, this.height)];
  }

  box(to) {
    const [[x0, y0], [x1, y1]] = [this.from, to];
    return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
  }

  isClick(to) {
    const scale = this.frame.clientWidth / this.width;
    return Math.max(Math.abs(to[0] - this.from[0]), Math.abs(to[1] - this.from[1])) * scale < 5;
  }

  move(to) {
    if (this.from && !this.isClick(to)) this.actions.drag(this, this.box(to));
    else this.actions.hover(this, this.under(to));
  }

  drop(to) {
    if (!this.from) return;
    const [click, box] = [this.isClick(to), this.box(to)];
    this.from = null;
    if (click) this.actions.click(this, this.under(to));
    else this.actions.select(this, box);
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (step) {
      event.preventDefault();
      this.cursor = this.neighbour(this.cursor, step);
      this.actions.hover(this, this.cursor.tokens);
    } else if (event.key === "Enter" && this.cursor) this.actions.click(this, this.cursor.tokens);
  }

  /** The nearest piece in a direction; the first piece where none is current. */
  neighbour(piece, [dx, dy]) {
    if (!piece) return this.pieces[0];
    const middle = ({ box }) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
    const [x, y] = middle(piece);
    let [best, least] = [piece, Infinity];
    for (const other of this.pieces) {
      const [ox, oy] = middle(other);
      const [along, across] = [(ox - x) * dx + (oy - y) * dy, Math.abs((ox - x) * dy) + Math.abs((oy - y) * dx)];
      if (along > 0.01 && along + 4 * across < least) [best, least] = [other, along + 4 * across];
    }
    return best;
  }

  under([x, y]) {
    return this.boxes.filter(([, b]) => b && b[0] <= x && x < b[2] && b[1] <= y && y < b[3]).map(([token]) => token);
  }

  /** Tokens whose centre lies in a box: the same rule as `inputs.region`. */
  inside([x0, y0, x1, y1]) {
    const centred = ([, b]) => {
      const [x, y] = [(b[0] + b[2]) / 2, (b[1] + b[3]) / 2];
      return x0 <= x && x < x1 && y0 <= y && y < y1;
    };
    return this.boxes.filter((entry) => entry[1] && centred(entry)).map(([token]) => token);
  }

  paint(row, top) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.frame.clientWidth * ratio, this.frame.clientHeight * ratio].map(Math.round);
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    if (!row || !(top > 0)) return;
    const [sx, sy] = [width / this.width, height / this.height];
    for (const { box, tokens } of this.pieces) {
      let sum = 0;
      for (const token of tokens) sum += row[token];
      const [x0, y0, x1, y1] = [box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy].map(Math.round);
      context.fillStyle = heat(sum / tokens.length / top);
      context.fillRect(x0, y0, x1 - x0, y1 - y0);
    }
  }

  mark(tokens, box) {
    this.marks.replaceChildren();
    const mine = new Set(tokens);
    for (const [token, b] of this.boxes) if (b && mine.has(token)) this.rectangle(b, "marked");
    if (box) this.rectangle(box, "dragged");
  }

  rectangle([x0, y0, x1, y1], kind) {
    this.marks.append(draw("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: kind }));
  }
}

// --- words, heads, colours -------------------------------------------------------------------------------------------

/** Whether a word begins with a space. The space goes between words, where lines may break and there is no tint. */
const spaced = (word) => /^ \S/.test(word.text);

/** Prompt and answer as running text; every token is a word that can be selected. */
class Strip {
  constructor(header, look) {
    this.words = header.words;
    this.look = look;
    this.nodes = this.words.map((word, i) => {
      const kind = `word ${word.kind}${word.special ? " special" : ""}${word.row == null ? " silent" : ""}`;
      const text = (spaced(word) ? word.text.slice(1) : word.text) || (word.kind === "image" ? "" : "·");
      return make("span", { class: kind, "data-word": i, id: `gaze-${header.id}-${i}`,
        role: word.row == null ? "presentation" : "option", "aria-selected": "false" }, text);
    });
    this.node = make("div", { class: "strip", role: "listbox", tabindex: "0",
      "aria-label": "Words of prompt and answer. Arrow keys move from word to word." });
    this.node.append(this.part("prompt", (word) => word.kind !== "answer"),
      this.part("answer", (word) => word.kind === "answer"));
    this.node.addEventListener("pointerover", (event) => this.over(event));
    this.node.addEventListener("keydown", (event) => this.key(event));
  }

  part(name, belongs) {
    const nodes = this.nodes.flatMap((node, i) =>
      (!belongs(this.words[i]) ? [] : spaced(this.words[i]) ? [" ", node] : [node]));
    const tag = make("span", { class: "tag" }, name);
    return make("div", { class: "part", role: "group", "aria-label": name }, tag, ...nodes);
  }

  over(event) {
    const at = event.target.dataset?.word;
    if (at !== undefined && this.words[at].row != null) this.look(Number(at));
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const ends = { Home: [0, 1], End: [this.words.length - 1, -1] }[event.key];
    if (!step && !ends) return;
    event.preventDefault();
    let [at, by] = ends || [this.current + step, step];
    while (this.words[at] && this.words[at].row == null) at += by;
    if (this.words[at]) this.look(at);
  }

  show(current) {
    if (this.current !== undefined) this.nodes[this.current].setAttribute("aria-selected", "false");
    this.current = current;
    const node = this.nodes[current];
    node.setAttribute("aria-selected", "true");
    this.node.setAttribute("aria-activedescendant", node.id);
    const [above, below] = [node.offsetTop, node.offsetTop + node.offsetHeight];
    const { scrollTop, clientHeight } = this.node;
    if (above < scrollTop || below > scrollTop + clientHeight) this.node.scrollTop = above - clientHeight / 2;
  }

  /** Colour the background of each word by a value. */
  tint(values) {
    const top = Math.max(1e-9, ...values);
    this.words.forEach((word, i) => {
      if (word.row != null) this.nodes[i].style.setProperty("--tint", `${Math.round((60 * values[word.row]) / top)}%`);
    });
  }
}

/** Layers by heads, coloured by score. Recorded heads can be selected, one or several. */
class HeadGrid {
  constructor(header, pick) {
    this.heads = header.heads;
    this.pick = pick;
    this.selected = new Set(this.heads.keys());
    const [nLayers, nHeads] = header.grid;
    const recorded = new Map(this.heads.map(([layer, head], i) => [`${layer} ${head}`, i]));
    const scores = header.scores?.flat().filter((score) => score != null) ?? [];
    this.top = Math.max(0, ...scores);
    this.cells = [];
    this.node = make("div", { class: "grid", role: "grid", "aria-multiselectable": "true", "aria-label": "Heads" });
    for (let layer = 0; layer < nLayers; layer++) {
      const cells = Array.from({ length: nHeads }, (_, head) =>
        this.cell(`L${layer}H${head}`, recorded.get(`${layer} ${head}`), header.scores?.[layer][head]));
      this.node.append(make("div", { role: "row" }, make("span", { role: "rowheader" }, `L${layer}`), ...cells));
    }
    this.node.addEventListener("keydown", (event) => this.key(event));
    this.cells[0].tabIndex = 0;
  }

  cell(name, index, score) {
    const note = score == null ? name : `${name}, score ${number(score)}`;
    const plain = index === undefined ? 0 : 35;
    const shade = score == null || !(this.top > 0) ? plain : 85 * clamp(score / this.top, 0, 1);
    const cell = make("span", { role: "gridcell", class: index === undefined ? "cell" : "cell recorded", title: note,
      "aria-label": index === undefined ? `${note}, not recorded` : note, style: `--shade: ${shade.toFixed(0)}%` });
    if (index === undefined) return cell;
    cell.setAttribute("data-head", name);
    cell.tabIndex = -1;
    cell.addEventListener("click", (event) => this.toggle(index, event.ctrlKey || event.metaKey || event.shiftKey));
    this.cells[index] = cell;
    return cell;
  }

  toggle(index, more) {
    if (!more) this.selected = new Set([index]);
    else if (!this.selected.has(index)) this.selected.add(index);
    else if (this.selected.size > 1) this.selected.delete(index);
    this.pick();
  }

  all() {
    this.selected = new Set(this.heads.keys());
    this.pick();
  }

  key(event) {
    const index = this.cells.indexOf(event.target);
    if (event.key === "Enter" || event.key === " ") this.toggle(index, event.key === " ");
    else if (event.key.startsWith("Arrow")) this.focus(index, event.key);
    else return;
    event.preventDefault();
  }

  /** The nearest recorded head in a direction. */
  focus(index, key) {
    const [layer, head] = this.heads[index];
    const [dl, dh] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
    let [best, least] = [index, Infinity];
    this.heads.forEach(([l, h], i) => {
      const along = (l - layer) * dl + (h - head) * dh;
      const across = Math.abs((l - layer) * dh) + Math.abs((h - head) * dl);
      if (along > 0 && along + 100 * across < least) [best, least] = [i, along + 100 * across];
    });
    this.cells[index].tabIndex = -1;
    this.cells[best].tabIndex = 0;
    this.cells[best].focus();
  }

  show() {
    this.cells.forEach((cell, i) => cell.setAttribute("aria-selected", this.selected.has(i)));
  }

  get label() {
    const names = [...this.selected].map((i) => `L${this.heads[i][0]}H${this.heads[i][1]}`);
    return names.length === 1 ? names[0] : `mean of ${names.length} heads`;
  }
}

/** The colours of the heat map with their numbers. */
function legendBar() {
  const stops = [0, 32, 64, 96, 128, 160, 192, 224, 255].map((level) => PALETTE[level]).join(",");
  const marks = [0, 1, 2].map(() => make("span"));
  const unit = make("span", { class: "unit" });
  const bar = make("div", { class: "bar", style: `background-image: linear-gradient(to right, ${stops})` });
  const node = make("div", { class: "legend" }, make("div", {}, bar, make("div", { class: "ticks" }, ...marks)), unit);
  return { node, show: (top, text) => {
    marks.forEach((mark, i) => { mark.textContent = number((top * i) / 2); });
    unit.textContent = text;
  } };
}

// --- steering --------------------------------------------------------------------------------------------------------

/** Baseline and steered answer side by side. `ask` reaches Python; without it, the answers in the page are shown. */
class Steering {
  constructor(about, ask) {
    this.about = about;
    this.ask = ask;
    this.mode = about.modes?.[0];
    this.strength = about.strengths?.at(-1);
    this.said = make("p", { class: "said" }, "Click a named region" + (ask ? " or drag a box." : "."));
    this.heading = make("h3", {}, "Steered");
    this.state = make("p", { class: "state", role: "status" });
    const unsteered = make("p", { class: "baseline" }, about.baseline.join(""));
    const baseline = make("div", {}, make("h3", {}, "Baseline"), unsteered);
    const steered = make("div", {}, this.heading, this.said);
    this.node = make("section", { class: "steering", "aria-label": "Steering" },
      make("h2", {}, `Steer ${about.n > 1 ? `these ${about.n} heads` : about.heads}`), this.controls(),
      make("div", { class: "sides" }, baseline, steered), this.state);
  }

  controls() {
    if (!this.ask) return make("p", { class: "note" }, `Steered when this page was saved: ${this.about.given}.`);
    const again = () => this.target && this.to(this.target);
    const modes = this.about.modes.map((name) => [name, MODES[name] ?? name]);
    const strengths = this.about.strengths.map((s) => [String(s), s >= 1000 ? `${s} (saturated)` : String(s)]);
    const strengthen = (value) => { this.strength = Number(value); again(); };
    return make("div", { class: "controls" },
      choice("Mode", modes, this.mode, (value) => { this.mode = value; again(); }),
      choice("Strength, logits", strengths, String(this.strength), strengthen));
  }

  /** target: {image, label, region or box}. There is one request at a time; of further ones, only the last is sent. */
  to(target) {
    this.target = target;
    if (!this.ask) {
      const answer = this.about.answers.find((one) => one.region === target.region && one.image === target.image);
      this.show(answer, answer ? "" : `No steered answer to ${target.label} was saved.`);
    } else if (this.waiting) this.next = true;
    else this.request(target);
  }

  request(target) {
    this.waiting = (this.waiting ?? this.last ?? 0) + 1;
    this.last = this.waiting;
    this.state.textContent = `Steering to ${target.label} …`;
    this.node.setAttribute("aria-busy", "true");
    const { image, region, box } = target;
    this.ask({ kind: "steer", id: this.waiting, image, region, box, mode: this.mode, strength: this.strength });
  }

  answer(message) {
    if (message.id !== this.waiting) return;
    this.waiting = null;
    this.node.removeAttribute("aria-busy");
    if (message.kind === "steered") {
      this.node.dataset.positions = message.positions.join(" ");
      this.show(message, "");
    } else this.show(null, message.message);
    if (this.next) {
      this.next = false;
      this.request(this.target);
    }
  }

  show(answer, note) {
    this.state.textContent = note;
    if (!answer) return;
    this.heading.textContent = `Steered to ${answer.region}`;
    this.said.textContent = answer.words.join("") || "(no text)";
  }
}

// --- the whole -------------------------------------------------------------------------------------------------------

/** The whole page, and the messages between its parts. */
class Viewer {
  constructor(root, header, arrays, ask) {
    header.id = Math.random().toString(36).slice(2);
    Object.assign(this, { root, header, kind: "raw", scale: "all", unit: header.regions.length ? "region" : "token" });
    this.attention = new MeanAttention(header, arrays);
    const names = ["hover", "leave", "drag", "select", "click"];
    const actions = Object.fromEntries(names.map((name) => [name, this[name].bind(this)]));
    this.pictures = header.images.map((about, i) => new Picture(about, i, header, actions));
    this.strip = new Strip(header, (word) => this.look(word));
    this.grid = new HeadGrid(header, () => this.recompute());
    this.legend = legendBar();
    this.readout = make("p", { class: "readout", role: "status", "aria-live": "polite" });
    this.pointed = make("p", { class: "pointed" });
    this.steering = header.steering ? new Steering(header.steering, ask) : null;
    const answers = header.words.map((word, i) => ({ ...word, i }));
    this.answers = answers.filter((word) => word.kind === "answer" && word.row != null).map(({ i }) => i);
    this.build();
    const first = this.answers[0] ?? header.words.findLastIndex((word) => word.row != null);
    this.strip.show(first);
    this.recompute();
    new ResizeObserver(() => this.paint()).observe(this.pictures[0].frame);
  }

  build() {
    this.chips = this.header.regions.map((region) => {
      const value = make("b", {});
      const empty = region.tokens.length === 0;
      const node = make("button", { type: "button", class: "chip", disabled: empty, "data-region": region.name,
        title: empty ? "smaller than a token" : null }, region.name, " ", value);
      node.addEventListener("pointerenter", () => this.point(region.tokens, region.name));
      node.addEventListener("focus", () => this.point(region.tokens, region.name));
      node.addEventListener("pointerleave", () => this.leave());
      node.addEventListener("blur", () => this.leave());
      node.addEventListener("click", () => this.choose(region));
      return { node, value, region };
    });
    const clear = make("button", { type: "button", class: "clear", onclick: () => this.clear() }, "clear selection");
    this.clearing = clear;
    const pictures = make("div", { class: "pictures" }, ...this.pictures.map((picture) => picture.frame));
    const chips = make("div", { class: "chips", role: "group", "aria-label": "Named regions" },
      ...this.chips.map((chip) => chip.node), clear);
    this.root.replaceChildren(make("h2", {}, "Where the heads looked"), this.readout, pictures, this.legend.node, chips,
      this.pointed, this.strip.node, this.player(), this.settings(), this.heads(), this.steering?.node ?? "");
  }

  player() {
    const last = Math.max(0, this.answers.length - 1);
    this.slider = make("input", { type: "range", min: 0, max: last, value: 0, "aria-label": "Word of the answer",
      oninput: () => this.look(this.answers[this.slider.value]) });
    this.play = make("button", { type: "button", class: "play", onclick: () => this.toggle() }, "▶ play");
    this.pace = 3;
    const paces = [["1", "1 word a second"], ["3", "3 words a second"], ["10", "10 words a second"]];
    return make("div", { class: "controls player", hidden: !this.answers.length }, this.play, this.slider,
      choice("", paces, "3", (value) => { this.pace = Number(value); }));
  }

  settings() {
    const values = Object.entries(VALUES).filter(([name]) => name !== "weighted" || this.header.weighted);
    const units = [["region", "named region"], ["token", "token"]].slice(this.header.regions.length ? 0 : 1);
    const note = this.header.weighted ? "" : make("p", { class: "note" }, `No value norms: ${this.header.unweighted}.`);
    return make("div", { class: "controls" },
      choice("Show", values.map(([name, { label }]) => [name, label]), this.kind,
        (value) => { this.kind = value; this.recompute(); }),
      choice("Colours", [["all", "one scale for all words"], ["word", "each word its own scale"]], this.scale,
        (value) => { this.scale = value; this.paint(); }),
      choice("Under the mouse", units, this.unit, (value) => { this.unit = value; }), note);
  }

  heads() {
    this.who = make("span", { class: "who" });
    const scored = this.header.scores ? `Blue: score, 0 to ${number(this.grid.top)}. ` : "";
    const help = make("p", { class: "note" }, scored + "Click a framed head to see it alone; with Shift, or the space" +
      " bar, it joins the mean or leaves it.");
    const every = make("button", { type: "button", class: "every", onclick: () => this.grid.all() }, "mean of all");
    const summary = make("summary", {}, "Heads: ", this.who);
    return make("details", { class: "heads", open: true }, summary, every, this.grid.node, help);
  }

  recompute() {
    this.attention.select([...this.grid.selected], this.kind);
    this.grid.show();
    this.who.textContent = this.grid.label;
    this.paint();
    this.tint();
  }

  look(word) {
    this.strip.show(word);
    const step = this.answers.indexOf(word);
    if (step >= 0) this.slider.value = step;
    this.paint();
  }

  paint() {
    const row = this.header.words[this.strip.current].row;
    const top = this.scale === "word" ? this.attention.tops[row] : this.attention.top;
    for (const picture of this.pictures) picture.paint(this.attention.row(row), top);
    for (const { value, region } of this.chips) value.textContent = brief(this.attention.on(row, region.tokens));
    this.legend.show(top, VALUES[this.kind].unit);
    this.read(row);
  }

  read(row) {
    const word = this.header.words[this.strip.current];
    const said = word.kind === "answer" ? "when it wrote" : "at the prompt's";
    const total = number(this.attention.totals[row]);
    const sum = this.kind === "share" ? "" : `; ${total} on ${this.pictures.length > 1 ? "all images" : "the image"}`;
    this.readout.replaceChildren(`${this.grid.label}, ${said} `, make("b", {}, `“${visible(word.text)}”`), sum);
  }

  /** Tint the words by their attention to the tokens under the mouse, else to the selection, else to all images. */
  tint() {
    const tokens = this.tokens ?? this.selection?.tokens;
    const { totals } = this.attention;
    const values = tokens ? totals.map((_, word) => this.attention.on(word, tokens)) : totals;
    this.strip.tint(values);
    const label = this.tokens ? this.label : this.selection?.label;
    const looking = this.header.words.filter((word) => word.row != null);
    const best = looking.reduce((a, b) => (values[b.row] > values[a.row] ? b : a));
    this.pointed.textContent = `Words are tinted by how much they looked at ${label ?? "the image"}; most: ` +
      `“${visible(best.text)}”, ${number(values[best.row])}.`;
    for (const picture of this.pictures) {
      const box = this.dragged?.picture === picture ? this.dragged.box : null;
      picture.mark(tokens ?? [], box);
    }
    this.clearing.hidden = !this.selection;
  }

  point(tokens, label) {
    const unchanged = this.tokens && !this.dragged && this.label === label && String(this.tokens) === String(tokens);
    Object.assign(this, { tokens, label });
    if (!unchanged) this.tint();
  }

  /** The named region that contains some of the tokens, where the mouse selects regions. */
  regionOf(picture, tokens) {
    const holds = (region) => region.image === picture.index && tokens.some((token) => region.tokens.includes(token));
    return this.unit === "region" ? this.header.regions.find(holds) : undefined;
  }

  hover(picture, tokens) {
    const region = this.regionOf(picture, tokens);
    if (region) this.point(region.tokens, region.name);
    else if (tokens.length) this.point(tokens, this.name(tokens));
    else this.leave();
  }

  name(tokens) {
    const what = this.header.cross_attention ? "image key" : "position";
    if (tokens.length > 1) return `${tokens.length} image tokens`;
    return `the image token at ${what} ${this.header.tokens.keys[tokens[0]]}`;
  }

  leave() {
    if (!this.tokens) return;
    this.tokens = undefined;
    this.tint();
  }

  drag(picture, box) {
    this.dragged = { picture, box };
    this.point(picture.inside(box), "the box");
  }

  select(picture, box) {
    this.dragged = null;
    this.tokens = undefined;
    const exact = box.map((side) => Math.round(side * 100) / 100);
    const tokens = picture.inside(exact);
    const label = `box ${exact.map((side) => Math.round(side)).join(" ")} (${tokens.length} image tokens)`;
    if (tokens.length) this.settle({ tokens, label, image: picture.index, box: exact });
    else {
      this.clear();
      this.pointed.textContent = "The box holds the centre of no image token: drag a larger one.";
    }
  }

  click(picture, tokens) {
    const region = this.regionOf(picture, tokens);
    if (region) this.choose(region);
    else if (tokens.length) {
      const box = this.header.tokens.boxes[tokens[0]];
      this.settle({ tokens: picture.inside(box), label: this.name(tokens), image: picture.index, box });
    }
  }

  choose(region) {
    this.settle({ tokens: region.tokens, label: region.name, image: region.image, region: region.name });
  }

  settle(selection) {
    this.selection = selection;
    this.root.dataset.selected = selection.tokens.map((token) => this.header.tokens.keys[token]).join(" ");
    this.tint();
    this.steering?.to(selection);
  }

  clear() {
    this.selection = undefined;
    this.dragged = null;
    delete this.root.dataset.selected;
    this.tint();
  }

  toggle() {
    if (this.timer) return this.stop();
    let step = Number(this.slider.value) + 1 < this.answers.length ? Number(this.slider.value) : -1;
    const next = () => {
      step += 1;
      if (step >= this.answers.length || !this.root.isConnected) return this.stop();
      this.look(this.answers[step]);
      this.timer = setTimeout(next, 1000 / this.pace);
      return undefined;
    };
    this.play.textContent = "❚❚ pause";
    return next();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = null;
    this.play.textContent = "▶ play";
  }
}

/** Dark where the background of the viewer is dark: notebooks have themes of their own. */
function follow(root) {
  const lightness = (colour) => {
    const [r, g, b, alpha] = colour.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    return alpha === 0 ? null : (0.299 * r + 0.587 * g + 0.114 * b) / 255;
  };
  const preference = window.matchMedia("(prefers-color-scheme: dark)");
  const update = () => {
    let [node, light] = [root.parentElement, null];
    for (; node && light === null; node = node.parentElement) light = lightness(getComputedStyle(node).backgroundColor);
    root.dataset.theme = (light === null ? preference.matches : light < 0.5) ? "dark" : "light";
  };
  update();
  preference.addEventListener("change", update);
  const watcher = new MutationObserver(update);
  watcher.observe(document.body, { attributes: true });
  return () => {
    preference.removeEventListener("change", update);
    watcher.disconnect();
  };
}

export async function mount(root, header, bytes, ask) {
  root.classList.add("gaze-viewer");
  root.dataset.lmSuppressShortcuts = "true"; // in JupyterLab, arrow keys and Enter are otherwise the notebook's
  root.addEventListener("keydown", (event) => event.stopPropagation());
  follow(root);
  return new Viewer(root, header, await unpack(bytes, header), ask);
}

export async function mountPage(page) {
  const text = page.getElementById("arrays").textContent;
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const header = JSON.parse(page.getElementById("header").textContent);
  await mount(page.getElementById("viewer"), header, bytes, null);
}

export default {
  async render({ model, el }) {
    const root = make("div");
    el.append(root);
    const view = model.get("arrays");
    const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    const viewer = await mount(root, { ...model.get("header") }, bytes, (message) => model.send(message));
    const receive = (message) => viewer.steering?.answer(message);
    model.on("msg:custom", receive);
    return () => {
      viewer.stop();
      model.off("msg:custom", receive);
    };
  },
};
