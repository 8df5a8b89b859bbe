// The label page: one cluster at a time, by keyboard, mouse or touch.

import { AnswerForm } from "./form.js";
import { Grid } from "./grid.js";
import { Refused, Stopwatch, away, eventId, find, get, hasModifier, isTyping, keep, many, meta, number, post, say } from "./page.js";

const NAME = `biomedica.${meta("draft")}`;
const OUTBOX = `${NAME}.outbox`;
const draftName = (cluster) => `${NAME}.draft.${cluster}`;

const watch = new Stopwatch();
let form, grid;
let cluster = null; // the one on the page
let isBusy = false;
let hasTaken = false; // the suggestion

const wantsSuggestions = () => find("#suggest")?.checked ?? false;

// --- showing

function show(found) {
  if (found.told) say(found.told);
  showProgress(found.progress);
  cluster = found.cluster;
  find("#main").hidden = cluster === null;
  find("#end").hidden = cluster !== null;
  for (const id of ["skip", "undo"]) find(`#${id}`).disabled = id === "skip" && cluster === null;
  if (cluster === null) {
    showEnd(found.progress);
    return;
  }
  find("#title").replaceChildren(`Cluster ${cluster.id} `, Object.assign(document.createElement("small"), { textContent: many(cluster.size, "image", "images") }));
  document.title = `Cluster ${cluster.id} · biomedica`;
  const draft = keep.read(draftName(cluster.id));
  const before = draft ?? found.previous;
  hasTaken = false;
  problems();
  showSuggestion(cluster.suggestion);
  grid.show(cluster.images, before?.outliers ?? []);
  form.set(before?.answer ?? { panel_type: null, panel_subtype: null, global_concepts: [], local_concepts: [] }, draft?.step ?? 0);
  watch.restart(draft?.seconds ?? 0);
  if (draft) say("What you had begun is back.");
  else if (found.previous) say(`Cluster ${cluster.id} is open again, with your answer.`);
  find("#questions").scrollTop = 0;
  goLabel();
  if (!find("#lightbox").open) find("#title").focus({ preventScroll: true });
}

function showProgress(progress) {
  const all = progress.num_done + progress.num_left;
  find("#bar").max = Math.max(1, all);
  find("#bar").value = progress.num_done;
  const pace = progress.median_seconds === null ? "" : ` · ${Math.round(progress.median_seconds)} s each`;
  find("#pace").textContent = `${number(progress.num_done)} done, ${number(progress.num_left)} left${pace}`;
}

function showEnd(progress) {
  find("#title").textContent = "Done";
  document.title = "Done · biomedica";
  find("#end-title").textContent = progress.num_left ? "Nothing for you just now" : "That is all. Thank you.";
  find("#end-words").textContent = progress.num_done ? `You have answered ${many(progress.num_done, "cluster", "clusters")}${progress.median_seconds === null ? "" : `, half of them within ${many(Math.max(1, Math.round(progress.median_seconds)), "second", "seconds")}`}.` : "";
  find("#end-more").textContent = progress.num_left ? `${many(progress.num_left, "cluster is", "clusters are")} in front of other experts. Should they leave without an answer, you can have them in half an hour.` : "";
  find("#end-again").hidden = !progress.num_left;
  find("#end-undo").hidden = !progress.num_done;
  find("#end-title").focus();
}

function showSuggestion(suggestion) {
  find("#suggestion").hidden = !suggestion;
  form.suggested = new Set();
  if (!suggestion) return;
  const { panel_type, panel_subtype, global_concepts, local_concepts } = suggestion.answer;
  const ids = [panel_subtype ?? panel_type, ...global_concepts, ...local_concepts];
  form.suggested = new Set([panel_type, ...ids].filter(Boolean));
  const panel = [...form.types, ...form.subtypes].find((each) => each.id === ids[0]);
  const names = [panel?.name, ...ids.slice(1).map((id) => form.concepts.get(id)?.name)].filter(Boolean);
  const isWords = suggestion.cluster === null;
  find("#suggestion-from").textContent = isWords ? "By its looks" : "A cluster nearby";
  find("#suggestion-words").textContent = `${isWords ? "this may be" : "is labelled"}: ${names.join(", ")}`;
}

function takeSuggestion() {
  if (!cluster?.suggestion) return;
  const { answer } = cluster.suggestion;
  const { panel_type, panel_subtype } = answer.panel_type ? answer : form.answer();
  form.set({ ...answer, panel_type, panel_subtype }, panel_type ? 3 : 0);
  hasTaken = true;
  changed();
  say("Taken over. Look at it before you save.");
}

function problems(...words) {
  find("#problems").textContent = words.join(" ");
}

function goLabel() {
  const isLast = form.step === 3;
  find("#go").firstChild.textContent = isLast ? "Save " : "Next ";
}

// --- keeping and sending

function changed() {
  if (!cluster) return;
  problems();
  goLabel();
  keep.write(draftName(cluster.id), { answer: form.answer(), outliers: [...grid.outliers], step: form.step, seconds: watch.seconds() });
}

// One thing at a time. What a person said is kept in the browser until the server has it.
async function send(path, body, isKept = false) {
  if (isBusy) return null;
  isBusy = true;
  document.body.classList.add("busy");
  problems();
  if (isKept) keep.write(OUTBOX, { path, body });
  try {
    const found = await post(path, { suggestions: wantsSuggestions(), ...body }, away);
    if (isKept) keep.remove(OUTBOX);
    return found;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (isKept && error.status !== 403) keep.remove(OUTBOX); // the personal link can be opened again
    if (error.status === 409) {
      say(error.message);
      keep.remove(draftName(body.cluster));
      isBusy = false;
      const next = await send("/api/next", {});
      return next && { ...next, told: error.message };
    }
    if (error.status === 403) say("This browser is not signed in any more. Open your personal link again; what you have begun is kept.", true);
    problems(...error.problems.map((each) => `${each[0].toUpperCase()}${each.slice(1)}.`));
    return null;
  } finally {
    isBusy = false;
    document.body.classList.remove("busy");
  }
}

async function said(path, body, words) {
  const found = await send(path, { event: eventId(), seconds: watch.seconds(), ...body }, true);
  if (!found) return;
  keep.remove(draftName(body.cluster));
  show(found);
  if (!found.told) say(words);
}

function vote(verdict, words, more = {}) {
  if (!cluster || isBusy) return;
  const suggestion = cluster.suggestion ? { ...cluster.suggestion, taken: hasTaken } : null;
  const body = { cluster: cluster.id, verdict, outliers: [...grid.outliers], shown: cluster.images.map((each) => each.key), suggestion, ...more };
  if (verdict === "answered") body.answer = form.answer();
  said("/api/vote", body, words);
}

function save() {
  const [first] = form.problems();
  if (first) {
    form.open(first[0]);
    problems(first[1]);
    goLabel();
    return;
  }
  vote("answered", `Cluster ${cluster.id} saved. u takes it back.`);
}

function go() {
  if (!cluster || isBusy) return;
  if (form.next()) {
    changed();
    if (form.step === 3) problems(...form.problems().slice(0, 1).map(([, words]) => words));
  } else save();
}

function skip() {
  if (cluster && !isBusy) said("/api/skip", { cluster: cluster.id }, `Cluster ${cluster.id} comes back after the others.`);
}

async function undo() {
  if (isBusy) return;
  const found = await send("/api/undo", { event: eventId() });
  if (!found) {
    const words = find("#problems").textContent;
    if (words && find("#main").hidden) say(words);
    return;
  }
  if (found.cluster) keep.remove(draftName(found.cluster.id));
  show(found);
}

function split(parts) {
  vote("mixed", `Cluster ${cluster.id} saved as mixed. u takes it back.`, parts ? { parts } : {});
}

// --- keys

const COMMANDS = {
  Enter: go,
  Backspace: () => {
    form.back();
    goLabel();
  },
  "/": () => {
    form.focusFilter();
    goLabel();
  },
  u: undo,
  s: skip,
  a: () => vote("ambiguous", `Cluster ${cluster.id} saved as ambiguous. u takes it back.`),
  m: () => cluster && !isBusy && find("#split").showModal(),
  o: () => grid.mark(),
  O: () => grid.mark(grid.current, true),
  y: takeSuggestion,
  z: () => grid.enlarge(),
  " ": () => grid.enlarge(),
  "?": () => find("#help").showModal(),
};

function onKey(event) {
  if (hasModifier(event) || isTyping(event.target) || document.querySelector("dialog[open]")) return;
  const isOurs = event.target.closest(".grid, .questions, main h1") || event.target === document.body || event.target.id === "title";
  const isControl = !isOurs && event.target.matches("button, a, input, summary");
  if (isControl && (event.key === "Enter" || event.key === " ")) return;
  if (event.target.matches(".head") && event.key === " ") return;
  if (find("#main").hidden && !"u?".includes(event.key)) return;
  const isArrow = event.key.startsWith("Arrow");
  if (event.repeat && !isArrow) {
    event.preventDefault();
    return;
  }
  const command = isArrow ? () => grid.walk(event.key) : COMMANDS[event.key];
  if (command) {
    event.preventDefault();
    if (!isBusy) command();
  } else if (event.key.length === 1 && !isBusy && form.press(event.key)) {
    event.preventDefault();
    goLabel();
  }
}

function listen() {
  document.addEventListener("keydown", onKey);
  find("#go").addEventListener("click", go);
  find("#ambiguous").addEventListener("click", COMMANDS.a);
  find("#mixed").addEventListener("click", COMMANDS.m);
  find("#undo").addEventListener("click", undo);
  find("#skip").addEventListener("click", skip);
  find("#help-open").addEventListener("click", COMMANDS["?"]);
  find("#help-close").addEventListener("click", () => find("#help").close());
  find("#suggestion-take").addEventListener("click", takeSuggestion);
  find("#end-undo").addEventListener("click", undo);
  find("#end-again").addEventListener("click", async () => {
    const found = await send("/api/next", {});
    if (found) show(found);
  });
  find("#questions").addEventListener("click", goLabel);
  find("#split").addEventListener("click", (event) => event.target.matches("button") && closeSplit(event.target.value));
  find("#split").addEventListener("keydown", (event) => {
    if ("02345".includes(event.key)) closeSplit(event.key);
  });
  find("#help").addEventListener("keydown", (event) => event.key === "?" && find("#help").close());
  find("#suggest")?.addEventListener("change", async () => {
    keep.write("biomedica.suggestions", find("#suggest").checked);
    const found = await send("/api/next", {});
    if (found) show(found);
  });
  window.addEventListener("pagehide", () => cluster && (!form.isEmpty || grid.outliers.size) && changed());
}

function closeSplit(value) {
  find("#split").close();
  if (value !== "") split(Number(value));
}

async function start() {
  const taxonomy = await get("/api/taxonomy");
  form = new AnswerForm(taxonomy, { changed, announce: speak, finish: go });
  grid = new Grid(changed);
  if (find("#suggest")) find("#suggest").checked = keep.read("biomedica.suggestions") ?? true;
  listen();
  const left = keep.read(OUTBOX); // the page was closed before the server had it
  const found = left ? await send(left.path, left.body, true) : null;
  if (left && found) keep.remove(draftName(left.body.cluster));
  const refused = left && !found ? find("#problems").textContent : "";
  const first = found ?? (await send("/api/next", {}));
  if (first) show(first);
  if (first && refused) say(`Your last answer was not stored. ${refused}`, true);
}

// Words for screen readers alone.
function speak(words) {
  find("#spoken").textContent = words;
}

start().catch((error) => say(error instanceof Refused && error.status === 403 ? "Open your personal link again." : `This page cannot go on: ${error.message}`, true));
