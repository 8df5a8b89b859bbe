// The audit page: does this image show that concept?

import { Refused, Stopwatch, away, eventId, find, hasModifier, many, meta, number, post, say } from "./page.js";

const run = encodeURIComponent(meta("run"));
const watch = new Stopwatch();
let asked = null; // what is on the page
let isBusy = false;

async function send(path, body) {
  if (isBusy) return;
  isBusy = true;
  find("#problems").textContent = "";
  try {
    show(await post(path, body, away));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (asked) find("#problems").textContent = `${error.message}.`;
    else say(error.message);
  } finally {
    isBusy = false;
  }
}

function show(found) {
  const { num_done, num_drawn } = found.progress;
  find("#bar").max = Math.max(1, num_drawn);
  find("#bar").value = num_done;
  find("#pace").textContent = `${number(num_done)} of ${number(num_drawn)} checked`;
  asked = found.image ? found : null;
  find("#main").hidden = !asked;
  find("#end").hidden = Boolean(asked);
  watch.restart();
  if (!asked) {
    find("#end-words").textContent = num_drawn ? `You have checked ${many(num_done, "image", "images")}. u takes the last answer back.` : "These labels give no image to check.";
    find("#end-title").focus();
    return;
  }
  const { image, concept } = found;
  find("#image").src = `/image/${encodeURIComponent(image.key)}`;
  find("#image").alt = image.label ?? "Figure";
  find("#question").textContent = `Does this image show: ${concept.name}?`;
  find("#definition").textContent = concept.definition;
  find("#second").hidden = !found.is_second;
  find("#figure").textContent = image.label ?? "Figure";
  find("#caption").textContent = image.caption;
  find("#about").textContent = [image.journal, image.licence].filter(Boolean).join(" · ");
  find("#link").href = `https://pmc.ncbi.nlm.nih.gov/articles/${encodeURIComponent(image.pmcid)}/`;
  find("#link").textContent = image.pmcid;
  find("#question").focus({ preventScroll: true });
}

function answer(value) {
  if (!asked) return;
  const { image, concept } = asked;
  send(`/api/audit/${run}`, { event: eventId(), key: image.key, concept: concept.id, answer: value, seconds: watch.seconds() });
}

const undo = () => send(`/api/audit/${run}/undo`, { event: eventId() });

document.addEventListener("keydown", (event) => {
  if (hasModifier(event) || event.repeat) return;
  const command = { y: () => answer("yes"), n: () => answer("no"), "?": () => answer("unsure"), u: undo }[event.key];
  if (!command) return;
  event.preventDefault();
  command();
});
find("#undo").addEventListener("click", undo);
for (const button of document.querySelectorAll(".big button")) button.addEventListener("click", () => answer(button.value));
send(`/api/audit/${run}/next`, {});
