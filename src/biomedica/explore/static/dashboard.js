// The operator's page: copying links, adding people.

import { Refused, find, post, say } from "./page.js";

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const { link } = button.dataset;
    try {
      await navigator.clipboard.writeText(link);
      say("The link is copied.");
    } catch {
      say(link, true); // pages that don't come by https can't write to the clipboard
    }
  });
}

find("#add").addEventListener("submit", async (event) => {
  event.preventDefault();
  find("#problems").textContent = "";
  try {
    await post("/api/experts", { name: find("#add-name").value, role: find("#add-role").value });
    location.reload();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    find("#problems").textContent = error.message;
  }
});
