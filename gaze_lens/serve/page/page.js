// The page: a picture with regions, a question, and an answer whose target moves with the mouse.

import { Answers } from "/answers.js";
import { Controls } from "/controls.js";
import { History } from "/history.js";
import { Stage } from "/stage.js";
import { events, get, post } from "/stream.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage($("stage"), steer);
const controls = new Controls($, stage, steer);
const answers = new Answers(
  { answer: $("answer"), baseline: $("baseline"), free: $("free"), reading: $("reading") }, stage);
const past = new History($("earlier"), $("before"));
let about, running = null; // running: of the current answer, { key, abort, sent, sending }
let loading = new AbortController(); // of the picture that was asked for last
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

// Of several pictures that are asked for, only the last one is shown, whichever arrives first.
const fetchPicture = (path, body, alt) => attempt(async () => {
  loading.abort();
  const mine = loading = new AbortController();
  const picture = await (await post(path, body, mine.signal)).json();
  if (mine === loading) await show(picture, alt, mine);
});

async function show(picture, alt, mine) {
  await stage.show(picture, alt, Number($("panels").value), () => mine === loading);
  if (mine !== loading) return;
  running?.abort.abort();
  say("");
  const token = await get(`/pictures/${picture.key}/token`); // the size of one: what is smaller is no box
  if (stage.key === picture.key) stage.token ??= token;
}

function takeSample() {
  const number = seed;
  seed += 1;
  return fetchPicture("/samples", { seed: number }, `A strip of panels with coloured shapes, number ${number}`);
}

function load(file) {
  if (!file) return;
  if (file.size > about.upload) {
    return say(`${file.name} is larger than ${about.upload / 1e6} MB; choose a smaller one.`, true);
  }
  say(`Loading ${file.name} …`);
  fetchPicture("/pictures", file, file.name);
}

// Answer

function target() {
  const aim = stage.aim();
  return aim && { ...aim, ...controls.how() };
}

// One request at a time, so that they arrive in order; of all wishes meanwhile the last counts.
async function steer() {
  const current = running;
  if (!current?.key || current.sending) return;
  current.sending = true;
  for (let next = target(); running === current && JSON.stringify(next) !== current.sent; next = target()) {
    current.sent = JSON.stringify(next);
    await attempt(() => post(`/answers/${current.key}/target`, { target: next }));
  }
  current.sending = false;
}

function stop() {
  if (running?.key) attempt(() => post(`/answers/${running.key}/stop`, {}));
  else running?.abort.abort();
}

async function ask() {
  running?.abort.abort(); // the server then ends that answer
  past.add(answers.question, answers.parts());
  const beside = $("beside").checked;
  const question = { picture: stage.key, prompt: $("prompt").value, regions: stage.boxes(), target: target(),
    max_new_tokens: Number($("length").value), pause: Number($("pause").value), baseline: beside };
  const current = { key: null, abort: new AbortController(), sent: JSON.stringify(question.target), sending: false };
  running = current;
  answers.begin(question.prompt, beside);
  $("stop").disabled = false;
  try {
    const response = await post("/answers", question, current.abort.signal);
    for await (const event of events(response)) if (running === current) take(event);
  } catch (error) {
    if (running === current) say(error.name === "AbortError" ? "Stopped." : error.message, error.name !== "AbortError");
  } finally {
    if (running === current) [running, $("stop").disabled] = [null, true];
  }
}

const ENDS = { finished: "Finished", stopped: "Stopped", full: "Stopped at the length asked for" };

function take(event) {
  if (event.kind === "queued") {
    running.key = event.id;
    steer(); // where the mouse went since the question
    say(event.ahead ? `Waiting: ${event.ahead} before this one.` : "Waiting …");
  } else if (event.kind === "started") {
    stage.token = event.token;
    say(`Reading ${event.prompt_tokens} tokens, ${event.image_tokens} of them picture …`);
  } else if (event.kind === "word" || event.kind === "baseline") {
    answers.add(event);
    say("Writing …");
  } else if (event.kind === "done") {
    say(`${ENDS[event.reason]}, ${event.tokens} tokens.`);
  } else if (event.kind === "dropped") {
    stage.remove(event.region);
    say(event.message, true);
  } else if (event.kind === "refused" || event.kind === "error") {
    say(event.message, true);
  }
}

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
$("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.target.matches("input, select") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "0") stage.hold(null);
  const named = /^[1-9]$/.test(event.key) && stage.names()[Number(event.key) - 1];
  if (named) stage.hold(named);
});
addEventListener("pagehide", () => {
  past.add(answers.question, answers.parts());
  past.save({ picture: stage.key && stage.picture(), alt: stage.alt, question: $("prompt").value });
});

attempt(async () => {
  about = await get("/about");
  $("about").textContent = `${about.model}, steering ${about.heads.slice(0, 8).join(", ")}`
    + (about.heads.length > 8 ? ` and ${about.heads.length - 8} more heads` : "");
  controls.begin(about.heads.length);
  $("questions").replaceChildren(...about.questions.map((text) => new Option(text, text)));
  $("pause").value = String(about.pause);
  [$("length").max, $("length").value] = [about.max_new_tokens, Math.min(100, about.max_new_tokens)];
  stage.most = about.regions;
  const { picture, alt, question } = past.restore();
  $("prompt").value = question ?? about.questions[0];
  if (!picture) return takeSample();
  return show(picture, alt, loading).catch(takeSample); // the server forgets pictures
});
