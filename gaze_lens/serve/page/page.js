// The page: a picture with regions, a question, and an answer whose target moves with the mouse.

import { Stage } from "/stage.js";
import { events, get, post } from "/stream.js";
import { Words } from "/words.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage($("stage"), steer);
let about, words = null, running = null; // running: { key, abort } of the current answer
let read = -1;
let seed = Number(new URLSearchParams(location.search).get("seed")) || Math.ceil(Math.random() * 1e6); // /?seed=5

function say(text, bad = false) {
  if ($("status").textContent !== text) $("status").textContent = text; // screen readers read changes aloud
  $("status").classList.toggle("bad", bad);
}

async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

// Picture

async function show(response, alt) {
  const picture = await response.json();
  running?.abort.abort();
  await stage.show(picture, alt, Number($("panels").value));
  say("");
}

const takeSample = () => attempt(async () => {
  await show(await post("/samples", { seed }), `A strip of panels with coloured shapes, number ${seed}`);
  seed += 1;
});

const load = (file) => attempt(async () => {
  if (!file) return;
  if (file.size > about.upload) {
    throw new Error(`${file.name} is larger than ${about.upload / 1e6} MB; choose a smaller one.`);
  }
  say(`Loading ${file.name} …`);
  await show(await post("/pictures", file), file.name);
});

// Answer

function target() {
  const region = stage.region(stage.target);
  return region && { ...region, strength: Number($("strength").value) };
}

function steer() {
  if (running?.key) attempt(() => post(`/answers/${running.key}/target`, { target: target() }));
}

function stop() {
  if (running?.key) attempt(() => post(`/answers/${running.key}/stop`, {}));
  else running?.abort.abort();
}

function keep() {
  if (!words?.spans.length) return;
  words.spans[read]?.classList.remove("read");
  const item = document.createElement("li");
  const question = document.createElement("span");
  question.className = "question";
  question.textContent = words.question;
  item.append(question, ...$("answer").childNodes);
  $("earlier").prepend(item);
  $("before").hidden = false;
  while ($("earlier").children.length > 8) $("earlier").lastChild.remove();
}

async function ask() {
  running?.abort.abort(); // the server then ends that answer
  keep();
  const current = { key: null, abort: new AbortController() };
  running = current;
  words = new Words($("answer"), stage);
  words.question = $("prompt").value;
  $("reading").textContent = "";
  [read, $("stop").disabled] = [-1, false];
  try {
    const question = { picture: stage.key, prompt: $("prompt").value, regions: stage.boxes(), target: target(),
      max_new_tokens: Number($("length").value), pause: Number($("pause").value) };
    const mine = words;
    const response = await post("/answers", question, current.abort.signal);
    for await (const event of events(response)) take(event, current, mine);
  } catch (error) {
    if (running === current) say(error.name === "AbortError" ? "Stopped." : error.message, error.name !== "AbortError");
  } finally {
    if (running === current) [running, $("stop").disabled] = [null, true];
  }
}

const ENDS = { finished: "Finished", stopped: "Stopped", full: "Stopped at the length asked for" };

function take(event, current, mine) {
  if (running !== current) return;
  if (event.kind === "queued") {
    current.key = event.id;
    say(event.ahead ? `Waiting: ${event.ahead} before this one.` : "Waiting …");
  } else if (event.kind === "started") {
    say(`Reading ${event.prompt_tokens} tokens, ${event.image_tokens} of them picture …`);
  } else if (event.kind === "word") {
    mine.add(event);
    say("Writing …");
  } else if (event.kind === "done") {
    say(`${ENDS[event.reason]}, ${event.tokens} tokens.`);
  } else if (event.kind === "refused" || event.kind === "error") {
    say(event.message, true);
  }
}

// The numbers of a word

function point(index) {
  if (!words?.spans.length) return;
  words.spans[read]?.classList.remove("read");
  read = Math.max(0, Math.min(words.spans.length - 1, index));
  const span = words.spans[read];
  span.classList.add("read");
  $("reading").textContent = words.describe(span);
  stage.light(span.dataset.region);
}

$("answer").addEventListener("pointerover", (event) => {
  const index = words ? words.spans.indexOf(event.target) : -1;
  if (index >= 0) point(index);
});
$("answer").addEventListener("pointerleave", () => stage.light(null));
$("answer").addEventListener("blur", () => stage.light(null));
$("answer").addEventListener("keydown", (event) => {
  const moved = { ArrowRight: read + 1, ArrowLeft: read - 1, Home: 0, End: Infinity }[event.key];
  if (moved === undefined) return;
  event.preventDefault();
  point(moved);
});

// Controls

$("sample").addEventListener("click", takeSample);
$("file").addEventListener("change", (event) => {
  load(event.target.files[0]);
  event.target.value = "";
});
$("panels").addEventListener("change", (event) => stage.cut(Number(event.target.value)));
$("box").addEventListener("submit", (event) => {
  event.preventDefault();
  const values = ["x0", "y0", "x1", "y1"].map((name) => Number(event.target.elements[name].value));
  if (stage.add(values) === null) say("That box is empty or outside the picture.", true);
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("strength").addEventListener("change", steer);
$("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.target.matches("input, select") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "0") stage.hold(null);
  const named = /^[1-9]$/.test(event.key) && stage.names()[Number(event.key) - 1];
  if (named) stage.hold(named);
});

attempt(async () => {
  about = await get("/about");
  $("about").textContent = `${about.model}, steering ${about.heads.slice(0, 8).join(", ")}`
    + (about.heads.length > 8 ? ` and ${about.heads.length - 8} more heads` : "");
  $("questions").replaceChildren(...about.questions.map((text) => new Option(text, text)));
  $("prompt").value = about.questions[0];
  $("pause").value = String(about.pause);
  [$("length").max, $("length").value] = [about.max_new_tokens, Math.min(100, about.max_new_tokens)];
  stage.most = about.regions;
  await takeSample();
});
