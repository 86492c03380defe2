// The answers before, and what of the page survives a reload. It is kept in this tab alone, and only as text.

const MOST = 8; // answers
const STORED = `gaze_lens ${location.search}`; // another address is another visit
const STYLES = ["--tint", "--share", "--aim"];

// An answer's nodes as data, and back.
const toData = (nodes) => [...nodes].map((node) => (node.nodeType === Node.TEXT_NODE ? { text: node.data } : {
  text: node.textContent, kind: node.className, region: node.dataset.region,
  style: STYLES.map((name) => node.style.getPropertyValue(name)) }));

function toNode({ text, kind, region, style }) {
  if (kind === undefined) return document.createTextNode(text);
  const span = document.createElement("span");
  Object.assign(span, { textContent: text, className: kind });
  if (region !== undefined) span.dataset.region = region;
  STYLES.forEach((name, index) => style[index] && span.style.setProperty(name, style[index]));
  return span;
}

const element = (tag, className, ...children) => {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
};

export class History {
  constructor(list, heading) { Object.assign(this, { list, heading, answers: [] }); }

  // parts: for each answer to the question, its kind and its nodes; those without a word are left out
  add(question, parts) {
    const written = Object.entries(parts).filter(([, nodes]) => nodes.length);
    if (!written.length) return;
    this.answers.unshift({ question, parts: written.map(([kind, nodes]) => [kind, toData(nodes)]) });
    this.answers.length = Math.min(this.answers.length, MOST);
    this.draw();
  }

  draw() {
    this.heading.hidden = !this.answers.length;
    this.list.replaceChildren(...this.answers.map(({ question, parts }) => element("li", "",
      element("span", "question", question), ...parts.flatMap(([kind, data]) => [
        ...(parts.length > 1 ? [element("span", "kind", kind)] : []),
        element("div", "words", ...data.map(toNode))]))));
  }

  // rest: what else is to be there after a reload
  save(rest) {
    sessionStorage.setItem(STORED, JSON.stringify({ ...rest, answers: this.answers }));
  }

  // What `save` kept, with the answers drawn; an empty object where this is no reload.
  restore() {
    const [entry] = performance.getEntriesByType("navigation");
    const stored = sessionStorage.getItem(STORED);
    if (stored === null || !["reload", "back_forward"].includes(entry?.type)) return {};
    const { answers, ...rest } = JSON.parse(stored);
    this.answers = answers;
    this.draw();
    return rest;
  }
}
