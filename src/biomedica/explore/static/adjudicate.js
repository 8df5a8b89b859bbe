// One cluster to decide: its images, the votes beside each other, and the form.

import { AnswerForm } from "./form.js";
import { Grid } from "./grid.js";
import { Refused, Stopwatch, away, eventId, find, get, hasModifier, isTyping, meta, post, say } from "./page.js";

const cluster = Number(meta("cluster"));
const watch = new Stopwatch();
let form, grid, event;
let isBusy = false;

function problems(...words) {
  find("#problems").textContent = words.join(" ");
}

async function send(path, body) {
  if (isBusy) return null;
  isBusy = true;
  try {
    return await post(path, body, away);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    problems(...error.problems.map((each) => `${each[0].toUpperCase()}${each.slice(1)}.`));
    return null;
  } finally {
    isBusy = false;
  }
}

async function settle(verdict) {
  const [first] = verdict === "answered" ? form.problems() : [];
  if (first) {
    form.open(first[0]);
    problems(first[1]);
    return;
  }
  const reason = find("#reason").value.trim();
  if (!reason) {
    problems("Say why: a decision needs a reason.");
    find("#reason").focus();
    return;
  }
  const answer = verdict === "answered" ? { answer: form.answer() } : {};
  const found = await send("/api/adjudicate", { event, cluster, verdict, reason, seconds: watch.seconds(), ...answer });
  event = eventId();
  if (found) location.assign(found.following === null ? "/dashboard#settle" : `/adjudicate/${found.following}`);
}

async function takeBack() {
  const found = await send("/api/adjudicate/undo", { event: eventId(), cluster });
  if (found) location.reload();
}

function onKey(pressed) {
  if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) {
    pressed.preventDefault();
    settle("answered");
    return;
  }
  if (hasModifier(pressed) || isTyping(pressed.target) || document.querySelector("dialog[open]") || pressed.repeat) return;
  if (pressed.target.closest(".scroll") || (pressed.target.matches("a, .verdicts button, .bar button, .notice button") && " Enter".includes(pressed.key))) return;
  const command = {
    Enter: () => form.next() || find("#reason").focus(),
    Backspace: () => form.back(),
    "/": () => form.focusFilter(),
    z: () => grid.enlarge(),
    " ": () => grid.enlarge(),
  }[pressed.key];
  if (pressed.target.matches(".head") && pressed.key === " ") return;
  if (pressed.key.startsWith("Arrow")) grid.walk(pressed.key);
  else if (command) command();
  else if (!(pressed.key.length === 1 && form.press(pressed.key))) return;
  pressed.preventDefault();
}

async function start() {
  event = eventId();
  const [taxonomy, found] = await Promise.all([get("/api/taxonomy"), get(`/api/adjudicate/${cluster}`)]);
  form = new AnswerForm(taxonomy, { changed: () => problems(), announce: (words) => (find("#spoken").textContent = words), finish: () => find("#reason").focus() });
  grid = new Grid();
  grid.show(found.cluster.images);
  form.dispute(found.disputed);
  const steps = ["panel_type", "panel_subtype", "global_concepts", "local_concepts"];
  form.set(found.answer, Math.max(0, steps.findIndex((each) => found.disputed.includes(each))));
  document.addEventListener("keydown", onKey);
  find("#go").addEventListener("click", () => settle("answered"));
  find("#ambiguous").addEventListener("click", () => settle("ambiguous"));
  find("#take-back")?.addEventListener("click", takeBack);
}

start().catch((error) => say(`This page cannot go on: ${error.message}`, true));
