// The image-attention viewer, for notebooks (anywidget calls `render`) and saved pages (which call `mountPage`).
// Text of models and users goes into the page as text nodes and attributes only, never as HTML.

const HEAT = [[0, 255, 209, 102, 0], [0.15, 255, 184, 77, 0.5], [0.5, 240, 100, 40, 0.68], [1, 165, 10, 0, 0.86]];
const SVG = "http://www.w3.org/2000/svg";
const VALUES = {
  raw: { label: () => "attention", unit: () => "attention mass on a token, 0–1" },
  weighted: { label: () => "attention × value norm", unit: () => "attention × norm of the token's value vector" },
  share: {
    label: (subject) => `share of the word's attention to ${subject}`,
    unit: (subject) => `share of what the word pays to ${subject}`,
  },
};
const MODES = {
  boost_and_suppress: (subject) => `boost the region, suppress the rest of ${subject}`,
  suppress_image: (subject) => `suppress the rest of ${subject}`,
  suppress_all: (subject) => `suppress the rest of ${subject} and all other text`,
  max_suppress_all: () => "suppress everything else",
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
/** A text in quotes, on one line, and not long. */
const quoted = (text) => `“${text.length > 40 ? `${visible(text.slice(0, 39))}…` : visible(text)}”`;
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

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text.trim());
  const characters = atob(text.trim());
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** Rows of some words as `packed_rows` wrote them: the scale of each row, then levels whose squares they scale. */
async function unpackRows(text, nTokens) {
  const buffer = await inflate(bytesOf(text));
  const nWords = buffer.byteLength / (4 + 2 * nTokens);
  const [scales, levels] = [new Float32Array(buffer, 0, nWords), new Uint16Array(buffer, 4 * nWords)];
  return Float32Array.from(levels, (level, i) => scales[Math.floor(i / nTokens)] * level * level);
}

/** What `packed` wrote: for every head, scales, norms, attention to regions, and levels, two in a byte if few. */
async function unpack(bytes, header) {
  const buffer = await inflate(bytes);
  const [nHeads, nWords, nTokens] = header.shape;
  let at = 0;
  const take = (Type, length) => {
    const part = new Type(buffer, at, length);
    at += part.byteLength;
    return part;
  };
  const scales = take(Float32Array, nHeads * nWords);
  const [most, norms] = header.weighted ? [take(Float32Array, nHeads), take(Uint16Array, nHeads * nTokens)] : [];
  const shares = header.halves ? take(Uint16Array, nHeads * nWords * header.regions.length) : null;
  return { scales, most, norms, shares, levels: take(Uint8Array) };
}

/** The mean over the selected heads, [word, token], as one array. Everything on the page is drawn from it. */
class MeanAttention {
  /** overall: the mean over all heads, which is there before the heads are. */
  constructor(header, overall) {
    this.header = header;
    this.overall = overall;
    [this.nHeads, this.nWords, this.nTokens] = header.shape;
    const { measured, scaled } = header.subject;
    [this.measured, this.scaled] = [measured, scaled].map((some) => (some.length < this.nTokens ? some : null));
  }

  load(arrays) {
    Object.assign(this, arrays);
    this.loaded = true;
  }

  /** Whether these heads can be shown yet. */
  has(heads, kind) {
    return this.loaded || (heads.length === this.nHeads && kind !== "weighted");
  }

  select(heads, kind) {
    const { nWords, nTokens } = this;
    [this.heads, this.kind] = [heads, kind];
    if (heads.length === this.nHeads && kind !== "weighted") this.mean = this.overall.slice();
    else {
      this.mean = new Float32Array(nWords * nTokens);
      for (const head of heads) this.add(head, heads.length, kind === "weighted");
    }
    this.totals = new Float32Array(nWords);
    this.shown = new Float32Array(nWords);
    this.tops = new Float32Array(nWords);
    for (let word = 0; word < nWords; word++) this.finish(this.row(word), word, kind === "share");
    this.top = this.tops.reduce((a, b) => Math.max(a, b), 0);
  }

  add(head, nSelected, weighted) {
    const { nWords, nTokens, levels, norms, mean } = this;
    const { halves } = this.header;
    for (let word = 0; word < nWords; word++) {
      const scale = (this.scales[head * nWords + word] / nSelected) * (weighted ? this.most[head] : 1);
      const [from, to, norm] = [(head * nWords + word) * nTokens, word * nTokens, head * nTokens];
      if (scale === 0) continue;
      for (let token = 0; token < nTokens; token++) {
        const at = from + token;
        const level = halves ? (at & 1 ? levels[at >> 1] & 15 : levels[at >> 1] >> 4) : levels[at];
        mean[to + token] += scale * level * level * (weighted ? norms[norm + token] : 1);
      }
    }
  }

  finish(row, word, share) {
    const total = sumOf(row, this.measured);
    if (share && total > 0) for (let token = 0; token < row.length; token++) row[token] /= total;
    this.totals[word] = total;
    this.shown[word] = share ? Number(total > 0) : total;
    this.tops[word] = topOf(row, this.scaled);
  }

  row(word) {
    return this.mean.subarray(word * this.nTokens, (word + 1) * this.nTokens);
  }

  on(word, tokens) {
    return sumOf(this.row(word), tokens);
  }

  /** On a named region: exactly, where levels are few and the sum over tokens would not be. */
  onRegion(word, index) {
    const { regions } = this.header;
    if (!this.shares || this.kind === "weighted" || this.heads.length === this.nHeads) {
      return this.on(word, regions[index].tokens);
    }
    let sum = 0;
    for (const head of this.heads) sum += this.shares[(head * this.nWords + word) * regions.length + index];
    return sum / 65535 / this.heads.length / (this.kind === "share" ? this.totals[word] || 1 : 1);
  }
}

/** The sum over some tokens of a row; over all without `tokens`. */
function sumOf(row, tokens) {
  let sum = 0;
  if (tokens) for (const token of tokens) sum += row[token];
  else for (const value of row) sum += value;
  return sum;
}

function topOf(row, tokens) {
  let top = 0;
  if (tokens) for (const token of tokens) top = Math.max(top, row[token]);
  else for (const value of row) top = Math.max(top, value);
  return top;
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
    if (this.from && !this.isClick(to)) this.actions.drag(this, this.inside(this.box(to)), this.box(to));
    else this.actions.hover(this, this.under(to));
  }

  drop(to) {
    if (!this.from) return;
    const [click, box] = [this.isClick(to), this.box(to)];
    this.from = null;
    if (click) this.actions.click(this, this.under(to));
    else this.actions.select(this, box);
  }

  /** Forget a drag that has begun. */
  cancel() {
    this.from = null;
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

  /** What a selection of the token under the mouse is, for the page and for Python. */
  chosen(tokens) {
    const box = this.boxes.find(([token]) => token === tokens[0])[1];
    return { tokens: this.inside(box), box };
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

// --- text ------------------------------------------------------------------------------------------------------------

/** Share of a word's attention, as a tint under a word of the prompt. */
const tintOf = (value, top) => `${Math.round(60 * clamp(value / Math.max(top, 1e-9), 0, 1))}%`;

/** The prompt's text under tints: what `Picture` is for an image. Segments and spans are outlined, with their names. */
class PromptText {
  constructor(header, index, actions) {
    Object.assign(this, { header, index, actions, first: header.tokens.image.indexOf(index) });
    this.nodes = header.text.map((word, i) => make("span", { class: `key${word.special ? " special" : ""}`,
      "data-key": this.first + i }, word.text));
    const regions = header.regions.filter((region) => region.image === index && region.tokens.length);
    regions.sort((a, b) => b.tokens.length - a.tokens.length);
    this.frame = make("div", { class: "text", tabindex: "0", role: "application", "data-image": index,
      "aria-label": "The prompt's text. Arrow keys move over it, Enter selects." },
      ...this.outlined(0, this.nodes.length, regions));
    this.listen();
  }

  /** The words from one to another; a region among them that is one run of words is in a frame with its name. */
  outlined(from, to, regions) {
    const nodes = [];
    for (let at = from; at < to;) {
      const begins = (region) => region.tokens[0] === this.first + at && region.tokens.at(-1) < this.first + to &&
        region.tokens.at(-1) - region.tokens[0] === region.tokens.length - 1;
      const region = regions.find(begins);
      if (region) {
        const end = at + region.tokens.length;
        const name = make("span", { class: "name", "aria-hidden": "true" }, region.name);
        const rest = regions.filter((one) => one !== region);
        nodes.push(make("span", { class: "framed", "data-framed": region.name }, name,
          ...this.outlined(at, end, rest)));
        at = end;
      } else nodes.push(this.nodes[at++]);
    }
    return nodes;
  }

  listen() {
    const { frame } = this;
    frame.addEventListener("pointermove", (event) => this.move(this.under(event)));
    frame.addEventListener("pointerleave", () => this.from === undefined && this.actions.leave());
    frame.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return; // a finger scrolls, and taps
      frame.setPointerCapture(event.pointerId);
      this.from = this.under(event);
      this.skip = false;
    });
    frame.addEventListener("pointerup", (event) => this.drop(this.under(event)));
    frame.addEventListener("pointercancel", () => this.cancel());
    frame.addEventListener("click", (event) => this.clicked(event));
    frame.addEventListener("keydown", (event) => this.key(event));
    frame.addEventListener("blur", () => this.actions.leave());
  }

  under(event) {
    const key = document.elementFromPoint(event.clientX, event.clientY)?.closest?.("[data-key]")?.dataset.key;
    return key === undefined || !this.frame.contains(event.target) ? undefined : Number(key);
  }

  run(to) {
    const [a, b] = [Math.min(this.from, to), Math.max(this.from, to)];
    return Array.from({ length: b - a + 1 }, (_, i) => a + i);
  }

  move(to) {
    if (this.from !== undefined && to !== undefined && to !== this.from) this.dragged = true;
    if (this.dragged && to !== undefined) this.actions.drag(this, this.run(to), null);
    else if (!this.dragged) this.actions.hover(this, to === undefined ? [] : [to]);
  }

  drop(to) {
    if (this.from === undefined) return;
    const { dragged } = this;
    if (dragged && to !== undefined) this.actions.select(this, null, this.chosen(this.run(to)));
    else if (dragged) this.actions.leave();
    this.cancel();
    this.skip = dragged; // the click that comes with it
  }

  /** Forget a drag that has begun. */
  cancel() {
    this.skip = this.from !== undefined;
    this.from = undefined;
    this.dragged = false;
  }

  clicked(event) {
    const at = this.under(event);
    if (!this.skip && at !== undefined) this.actions.click(this, [at]);
    this.skip = false;
  }

  key(event) {
    const last = this.first + this.nodes.length - 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) {
      event.preventDefault();
      this.cursor = this.cursor === undefined ? this.first : clamp(this.cursor + step, this.first, last);
      this.actions.hover(this, [this.cursor]);
    } else if (event.key === "Enter" && this.cursor !== undefined) this.actions.click(this, [this.cursor]);
  }

  textOf(tokens) {
    return tokens.map((token) => this.header.text[token - this.first].text).join("");
  }

  chosen(tokens) {
    return { tokens, positions: tokens.map((token) => this.header.tokens.keys[token]) };
  }

  paint(row, top) {
    this.nodes.forEach((node, i) => node.style.setProperty("--tint", tintOf(row ? row[this.first + i] : 0, top)));
  }

  mark(tokens) {
    const mine = new Set(tokens);
    this.nodes.forEach((node, i) => node.classList.toggle("marked", mine.has(this.first + i)));
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
      const option = word.row == null ? {} : { role: "option", "aria-selected": "false", "aria-label": visible(text) };
      return make("span", { class: kind, "data-word": i, id: `gaze-${header.id}-${i}`, ...option }, text);
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
    const columns = Array.from({ length: nHeads }, (_, head) =>
      make("span", { role: "columnheader", "aria-label": `H${head}` }, nHeads > 10 ? `${head}` : `H${head}`));
    this.node.append(make("div", { role: "row" }, make("span", { role: "columnheader", class: "corner" }, "layer"),
      ...columns));
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

/** The colours of the heat map, or of the tints of text, with their numbers. */
function legendBar(ofText) {
  const stops = [0, 32, 64, 96, 128, 160, 192, 224, 255].map((level) => PALETTE[level]).join(",");
  const marks = [0, 1, 2].map(() => make("span"));
  const unit = make("span", { class: "unit" });
  const bar = make("div", ofText ? { class: "bar tints" } :
    { class: "bar", style: `background-image: linear-gradient(to right, ${stops})` });
  const node = make("div", { class: "legend" }, make("div", {}, bar, make("div", { class: "ticks" }, ...marks)), unit);
  return { node, show: (top, text, more) => {
    marks.forEach((mark, i) => { mark.textContent = number((top * i) / 2) + (more && i === 2 ? " or more" : ""); });
    unit.textContent = text;
  } };
}

/** How strong the heat map is, and a button (or the key o) to see the original as long as it is held. */
class HeatControl {
  constructor(root) {
    this.root = root;
    this.slider = make("input", { type: "range", min: 0, max: 100, value: 100, "aria-label": "Opacity of the heat map",
      oninput: () => this.show() });
    const button = make("button", { type: "button", class: "original", title: "or hold the key o" },
      "hold: the original");
    for (const kind of ["pointerdown", "keydown"]) button.addEventListener(kind, (event) => this.hold(event, true));
    for (const kind of ["pointerup", "pointerleave", "pointercancel", "keyup", "blur"]) {
      button.addEventListener(kind, (event) => this.hold(event, false));
    }
    this.node = make("div", { class: "controls heat" }, make("label", {}, "Heat map ", this.slider), button);
    this.show();
  }

  hold(event, held) {
    if (!event.key || event.key === " " || event.key === "Enter") this.original(held);
  }

  original(held) {
    this.held = held;
    this.show();
  }

  show() {
    this.root.style.setProperty("--heat", this.held ? 0 : this.slider.value / 100);
  }
}

// --- steering --------------------------------------------------------------------------------------------------------

/** The words of an answer, tinted by attention; the one under the mouse is reported. */
class AnswerWords {
  constructor(name, look) {
    this.node = make("p", { class: name });
    this.look = look;
    this.node.addEventListener("pointerover", (event) => this.over(event));
    this.node.addEventListener("pointerleave", () => this.rows && look(null));
  }

  over(event) {
    const at = event.target.dataset?.said;
    if (at !== undefined && this.rows) this.look(this.rows[at], this.texts[at]);
  }

  /** rows: for each word its attention to every token, or null where that is not known. */
  write(texts, rows) {
    Object.assign(this, { texts, rows });
    this.nodes = texts.map((text, i) => make("span", { class: "word", "data-said": i }, text));
    this.node.replaceChildren(...this.nodes);
  }

  /** The attention of each word to some tokens. */
  on(tokens) {
    return this.rows?.map((row) => sumOf(row, tokens)) ?? [];
  }

  tint(values, top) {
    this.nodes.forEach((node, i) => node.style.setProperty("--tint", tintOf(values[i] ?? 0, top)));
  }
}

/** Baseline and steered answer side by side. `ask` reaches Python; without it, the answers in the page are shown. */
class Steering {
  /** baseline: for each word of the unsteered answer, the mean attention over all heads. look: paints such a row. */
  constructor(about, ask, baseline, nTokens, subject, look) {
    Object.assign(this, { about, ask, nTokens, subject });
    this.mode = about.modes?.[0];
    this.strength = about.strengths?.at(-1);
    this.invitation = "Click a named region" + (ask ? ", or select another." : ".");
    const reported = (what) => (row, text) => look(row, text, what);
    this.baseline = new AnswerWords("baseline", reported("baseline"));
    this.baseline.write(about.baseline, baseline);
    this.said = new AnswerWords("said", reported("steered"));
    this.said.write([this.invitation], null);
    this.heading = make("h3", {}, "Steered");
    this.state = make("p", { class: "state", role: "status" });
    this.sums = [make("p", { class: "sum" }), make("p", { class: "sum" })];
    const unsteered = make("div", {}, make("h3", {}, "Baseline"), this.baseline.node, this.sums[0]);
    const steered = make("div", {}, this.heading, this.said.node, this.sums[1]);
    this.node = make("section", { class: "steering", "aria-label": "Steering" },
      make("h2", {}, `Steer ${about.n > 1 ? `these ${about.n} heads` : about.heads}`), this.controls(),
      make("div", { class: "sides" }, unsteered, steered), this.state);
  }

  controls() {
    if (!this.ask) return make("p", { class: "note" }, `Steered when this page was saved: ${this.about.given}.`);
    const again = () => this.target && this.to(this.target);
    const modes = this.about.modes.map((name) => [name, MODES[name]?.(this.subject) ?? name]);
    const strengths = this.about.strengths.map((s) => [String(s), s >= 1000 ? `${s} (saturated)` : String(s)]);
    const strengthen = (value) => { this.strength = Number(value); again(); };
    return make("div", { class: "controls" },
      choice("Mode", modes, this.mode, (value) => { this.mode = value; again(); }),
      choice("Strength, logits", strengths, String(this.strength), strengthen));
  }

  /** target: {image, label, tokens, and region, box or positions}. There is one request at a time; of further ones,
   * only the last is sent. */
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
    const { image, region, box, positions } = target;
    const how = { mode: this.mode, strength: this.strength };
    this.ask({ kind: "steer", id: this.waiting, image, region, box, positions, ...how });
  }

  answer(message) {
    if (message.id !== this.waiting) return;
    this.waiting = null;
    this.node.removeAttribute("aria-busy");
    if (!this.target) this.state.textContent = ""; // cleared in the meantime
    else if (message.kind === "steered") {
      this.node.dataset.positions = message.positions.join(" ");
      this.show(message, "");
    } else this.show(null, message.message);
    if (this.next) {
      this.next = false;
      this.request(this.target);
    }
  }

  async show(answer, note) {
    const { target } = this;
    this.state.textContent = note;
    if (!answer) return;
    this.heading.textContent = `Steered to ${answer.region}`;
    const words = answer.words.length ? answer.words : ["(no text)"];
    this.said.write(words, null);
    const flat = answer.words.length ? await unpackRows(answer.attention, this.nTokens) : null;
    if (!flat || this.target !== target) return;
    this.said.write(words, words.map((_, i) => flat.subarray(i * this.nTokens, (i + 1) * this.nTokens)));
    this.compare(target);
  }

  /** Tint both answers by how much of the heads' attention was on the target, on one scale. */
  compare(target) {
    const both = [this.baseline, this.said].map((answer) => answer.on(target.tokens));
    const top = Math.max(1e-9, ...both.flat());
    [this.baseline, this.said].forEach((answer, i) => answer.tint(both[i], top));
    this.sums.forEach((node, i) => {
      const mean = both[i].reduce((a, b) => a + b, 0) / Math.max(1, both[i].length);
      node.textContent = `${number(mean)} on ${target.label}, mean over words`;
    });
  }

  clear() {
    this.target = undefined;
    this.next = false;
    delete this.node.dataset.positions;
    this.heading.textContent = "Steered";
    this.state.textContent = "";
    this.said.write([this.invitation], null);
    this.baseline.tint([], 1);
    for (const node of this.sums) node.textContent = "";
  }
}

// --- the whole -------------------------------------------------------------------------------------------------------

/** The whole page, and the messages between its parts. */
class Viewer {
  /** overall: the mean over all heads, [word, token]. The heads one by one come with `load`. */
  constructor(root, header, overall, ask) {
    header.id = Math.random().toString(36).slice(2);
    Object.assign(this, { root, header, kind: "raw", scale: "all", unit: header.regions.length ? "region" : "token" });
    this.attention = new MeanAttention(header, overall);
    const names = ["hover", "leave", "drag", "select", "click"];
    const actions = Object.fromEntries(names.map((name) => [name, this[name].bind(this)]));
    this.pictures = header.images.map((about, i) => new Picture(about, i, header, actions));
    if (header.text.length) this.pictures.push(new PromptText(header, header.images.length, actions));
    this.strip = new Strip(header, (word) => this.look(word));
    this.grid = new HeadGrid(header, () => this.recompute());
    this.legends = [header.images.length && legendBar(false), header.text.length && legendBar(true)].filter(Boolean);
    this.readout = make("p", { class: "readout", role: "status", "aria-live": "polite" });
    this.pointed = make("p", { class: "pointed" });
    const answers = header.words.map((word, i) => ({ ...word, i }));
    this.answers = answers.filter((word) => word.kind === "answer" && word.row != null).map(({ i }) => i);
    this.steering = header.steering ? this.steered(ask) : null;
    this.build();
    const first = this.answers[0] ?? header.words.findLastIndex((word) => word.row != null);
    this.strip.show(first);
    this.recompute();
    this.listen();
    new ResizeObserver(() => this.paint()).observe(this.pictures[0].frame);
  }

  /** Keys that act wherever the focus is: in the viewer, or nowhere. */
  listen() {
    this.ended = new AbortController();
    const { signal } = this.ended;
    const hear = (event) => {
      if (event.key === "o") this.opacity.original(event.type === "keydown");
      else if (event.key === "Escape" && event.type === "keydown") this.reset();
    };
    for (const kind of ["keydown", "keyup"]) {
      this.root.addEventListener(kind, hear, { signal });
      document.addEventListener(kind, (event) => event.target === document.body && hear(event), { signal });
    }
  }

  /** No longer on the page. */
  end() {
    this.stop();
    this.ended.abort();
  }

  load(arrays) {
    this.attention.load(arrays);
    if (this.waiting) this.recompute();
  }

  steered(ask) {
    const { nTokens, overall } = this.attention;
    const written = this.answers.map((i) => this.header.words[i]).filter((word) => !word.special);
    const rows = written.map(({ row }) => overall.subarray(row * nTokens, (row + 1) * nTokens));
    const look = (row, text, what) => this.watch(row, text, what);
    return new Steering(this.header.steering, ask, rows, nTokens, this.header.subject.name, look);
  }

  build() {
    this.chips = this.header.regions.map((region, index) => {
      const value = make("b", {});
      const empty = region.tokens.length === 0;
      const node = make("button", { type: "button", class: "chip", disabled: empty, "data-region": region.name,
        title: empty ? "smaller than a token" : null }, region.name, " ", value);
      node.addEventListener("pointerenter", () => this.point(region.tokens, region.name));
      node.addEventListener("focus", () => this.point(region.tokens, region.name));
      node.addEventListener("pointerleave", () => this.leave());
      node.addEventListener("blur", () => this.leave());
      node.addEventListener("click", () => this.choose(region));
      return { node, value, region, index };
    });
    const clear = make("button", { type: "button", class: "clear", onclick: () => this.clear() }, "clear selection");
    this.clearing = clear;
    const pictures = make("div", { class: "pictures" }, ...this.pictures.map((picture) => picture.frame));
    const chips = make("div", { class: "chips", role: "group", "aria-label": "Named regions" },
      ...this.chips.map((chip) => chip.node), clear);
    this.opacity = new HeatControl(this.root);
    const legends = this.legends.map(({ node }) => node);
    const seen = make("div", { class: "seen" }, pictures, ...legends, this.opacity.node, chips, this.pointed);
    const told = make("div", { class: "told" }, this.readout, this.strip.node, this.player(),
      this.steering?.node ?? "");
    const level = this.root.localName === "main" ? "h1" : "h2"; // a page of its own, or a part of a notebook
    this.root.replaceChildren(make(level, {}, "Where the heads looked"), make("div", { class: "beside" }, seen, told),
      this.settings(), this.heads());
  }

  player() {
    const last = Math.max(0, this.answers.length - 1);
    this.slider = make("input", { type: "range", min: 0, max: last, value: 0, "aria-label": "Word of the answer",
      oninput: () => this.look(this.answers[this.slider.value]) });
    this.play = make("button", { type: "button", class: "play", onclick: () => this.toggle() }, "▶ play");
    this.pace = 3;
    const paces = [["1", "1 word a second"], ["3", "3 words a second"], ["10", "10 words a second"]];
    return make("div", { class: "controls player", hidden: !this.answers.length }, this.play, this.slider,
      choice("Pace", paces, "3", (value) => { this.pace = Number(value); }));
  }

  settings() {
    const values = Object.entries(VALUES).filter(([name]) => name !== "weighted" || this.header.weighted);
    const units = [["region", "named region"], ["token", "token"]].slice(this.header.regions.length ? 0 : 1);
    const subject = this.header.subject.name;
    const note = this.header.weighted ? "" : make("p", { class: "note" }, `No value norms: ${this.header.unweighted}.`);
    return make("div", { class: "controls" },
      choice("Show", values.map(([name, { label }]) => [name, label(subject)]), this.kind,
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
    const heads = [...this.grid.selected];
    this.grid.show();
    this.who.textContent = this.grid.label;
    this.waiting = !this.attention.has(heads, this.kind);
    this.root.toggleAttribute("data-waiting", this.waiting);
    if (this.waiting) return;
    this.attention.select(heads, this.kind);
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
    const word = this.header.words[this.strip.current];
    const top = this.scale === "word" ? this.attention.tops[word.row] : this.attention.top;
    for (const picture of this.pictures) picture.paint(this.attention.row(word.row), top);
    for (const { value, index } of this.chips) value.textContent = brief(this.attention.onRegion(word.row, index));
    const more = topOf(this.attention.row(word.row), null) > top * 1.001;
    for (const legend of this.legends) legend.show(top, VALUES[this.kind].unit(this.header.subject.name), more);
    this.read(word, this.attention.totals[word.row]);
  }

  /** Paint the row of a word of the steered answer, or of the baseline beside it: the mean over all heads. */
  watch(row, text, what) {
    if (!row) return void this.paint();
    const top = topOf(row, this.attention.scaled);
    for (const picture of this.pictures) picture.paint(row, top);
    for (const { value, region } of this.chips) value.textContent = brief(sumOf(row, region.tokens));
    const more = topOf(row, null) > top * 1.001;
    for (const legend of this.legends) legend.show(top, VALUES.raw.unit(), more);
    const { nHeads, measured } = this.attention;
    const who = nHeads > 1 ? `mean of ${nHeads} heads` : this.grid.label;
    const total = `; ${number(sumOf(row, measured))} on ${this.header.subject.name}`;
    this.readout.replaceChildren(`${who}, in the ${what} answer, when it wrote `, make("b", {}, quoted(text)), total);
    return undefined;
  }

  read(word, total) {
    const said = word.kind === "answer" ? "when it wrote" : "at the prompt's";
    const sum = this.kind === "share" ? "" : `; ${number(total)} on ${this.header.subject.name}`;
    this.readout.replaceChildren(`${this.grid.label}, ${said} `, make("b", {}, `“${visible(word.text)}”`), sum);
  }

  /** Tint the words by their attention to the tokens under the mouse, else to the selection, else to all images. */
  tint() {
    const tokens = this.tokens ?? this.selection?.tokens;
    const { shown } = this.attention;
    const values = tokens ? shown.map((_, word) => this.attention.on(word, tokens)) : shown;
    this.strip.tint(values);
    const label = this.tokens ? this.label : this.selection?.label;
    const looking = this.header.words.filter((word) => word.row != null);
    const best = looking.reduce((a, b) => (values[b.row] > values[a.row] ? b : a));
    const where = label ?? this.header.subject.name;
    this.pointed.textContent = `Words are tinted by how much they looked at ${where}; most: ` +
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

  /** The named region that contains some of the tokens, where the mouse selects regions; the smallest of several. */
  regionOf(picture, tokens) {
    const holds = (region) => region.image === picture.index && tokens.some((token) => region.tokens.includes(token));
    if (this.unit !== "region") return undefined;
    const holding = this.header.regions.filter(holds);
    if (picture instanceof PromptText) holding.sort((a, b) => a.tokens.length - b.tokens.length);
    return holding[0];
  }

  hover(picture, tokens) {
    const region = this.regionOf(picture, tokens);
    if (region) this.point(region.tokens, region.name);
    else if (tokens.length) this.point(tokens, this.name(picture, tokens));
    else this.leave();
  }

  name(picture, tokens) {
    const key = this.header.tokens.keys[tokens[0]];
    if (picture instanceof PromptText) {
      const text = quoted(picture.textOf(tokens));
      return tokens.length > 1 ? `${text} (${tokens.length} tokens)` : `${text} at position ${key}`;
    }
    const what = this.header.cross_attention ? "image key" : "position";
    if (tokens.length > 1) return `${tokens.length} image tokens`;
    return `the image token at ${what} ${key}`;
  }

  leave() {
    if (!this.tokens) return;
    this.dragged = null;
    this.tokens = undefined;
    this.tint();
  }

  drag(picture, tokens, box) {
    this.dragged = { picture, box };
    this.point(tokens, box ? "the box" : this.name(picture, tokens));
  }

  /** box: in pixels of a picture; chosen: words of the text. */
  select(picture, box, chosen) {
    this.dragged = null;
    this.tokens = undefined;
    if (chosen) {
      this.settle({ ...chosen, label: this.name(picture, chosen.tokens), image: picture.index });
      return;
    }
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
      const label = this.name(picture, tokens);
      this.settle({ ...picture.chosen(tokens), label, image: picture.index });
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
    this.steering?.clear();
    this.tint();
  }

  /** Everything as at the beginning: no selection, no drag, no steered answer, all heads, nothing playing. */
  reset() {
    for (const picture of this.pictures) picture.cancel();
    this.tokens = undefined;
    this.stop();
    this.clear();
    if (this.grid.selected.size < this.header.heads.length) this.grid.all();
    this.paint();
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
  const viewer = new Viewer(root, header, await unpackRows(header.mean, header.shape[2]), ask);
  await new Promise((resume) => { setTimeout(resume); }); // what is there is painted first
  viewer.load(await unpack(bytes(), header));
  return viewer;
}

export async function mountPage(page) {
  const header = JSON.parse(page.getElementById("header").textContent);
  const bytes = () => bytesOf(page.getElementById("arrays").textContent);
  await mount(page.getElementById("viewer"), header, bytes, null);
}

export default {
  async render({ model, el }) {
    const root = make("div");
    el.append(root);
    const view = model.get("arrays");
    const bytes = () => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    const viewer = await mount(root, { ...model.get("header") }, bytes, (message) => model.send(message));
    const receive = (message) => viewer.steering?.answer(message);
    model.on("msg:custom", receive);
    return () => {
      viewer.end();
      model.off("msg:custom", receive);
    };
  },
};
