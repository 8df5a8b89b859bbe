// The four questions: panel type, panel subtype, global concepts, local concepts.
// The form keeps to the taxonomy's rules as far as it can; the server checks them again.

import { make } from "./page.js";

// Keys of the options; a, m, o, s, u, y and z are commands of the page.
const KEYS = [..."1234567890bcdefghijklnpqrtvwx"];
const MAX_UNFOLDED = 28;
const MAX_MATCHES = 14;

export const STEPS = [
  { name: "panel_type", asks: "Panel type" },
  { name: "panel_subtype", asks: "Panel subtype" },
  { name: "global_concepts", asks: "Global concepts" },
  { name: "local_concepts", asks: "Local concepts" },
];

export class AnswerForm {
  // changed   called after every change; announce   gets words for screen readers
  constructor(taxonomy, { changed, announce, finish }) {
    this.root = document.querySelector("#questions");
    this.definition = document.querySelector("#definition");
    this.changed = changed;
    this.announce = announce;
    this.finish = finish;
    this.types = taxonomy.panel_types;
    this.subtypes = taxonomy.panel_subtypes;
    this.concepts = new Map(taxonomy.concepts.map((each) => [each.id, { ...each, children: [] }]));
    for (const each of this.concepts.values()) {
      if (each.parent !== null) this.concepts.get(each.parent).children.push(each);
    }
    this.globals = [...this.concepts.values()].filter((each) => each.parent === null);
    this.suggested = new Set();
    this.step = 0;
    this.build();
    this.clear();
  }

  // --- what is answered

  clear() {
    this.set({ panel_type: null, panel_subtype: null, global_concepts: [], local_concepts: [] });
  }

  set(answer, step = 0) {
    this.chosen = {
      panel_type: answer.panel_type,
      panel_subtype: answer.panel_subtype,
      global_concepts: new Set(answer.global_concepts),
      local_concepts: new Set(answer.local_concepts),
    };
    this.unfolded = new Set();
    this.open(step, false);
  }

  answer() {
    const { panel_type, panel_subtype, global_concepts, local_concepts } = this.chosen;
    const inOrder = (ids) => [...this.concepts.keys()].filter((id) => ids.has(id));
    return { panel_type, panel_subtype, global_concepts: inOrder(global_concepts), local_concepts: inOrder(local_concepts) };
  }

  get isEmpty() {
    const { panel_type, global_concepts, local_concepts } = this.chosen;
    return !panel_type && !global_concepts.size && !local_concepts.size;
  }

  ancestors(id) {
    const found = [];
    for (let each = this.concepts.get(id); each.parent !== null; ) {
      each = this.concepts.get(each.parent);
      found.push(each);
    }
    return found;
  }

  // Concepts that the chosen local ones imply.
  implied() {
    return new Set([...this.chosen.local_concepts].flatMap((id) => this.ancestors(id).map((each) => each.id)));
  }

  shownGlobals() {
    const implied = this.implied();
    return this.globals.filter((each) => this.chosen.global_concepts.has(each.id) || implied.has(each.id));
  }

  subtypesOfType() {
    return this.subtypes.filter((each) => each.panel_type === this.chosen.panel_type);
  }

  // What is wrong or lacking, in words, with the step where it is.
  problems() {
    const { panel_type, panel_subtype } = this.chosen;
    const shown = this.shownGlobals();
    const found = [];
    if (!panel_type) found.push([0, "Choose a panel type."]);
    else if (!panel_subtype) found.push([1, "Choose a panel subtype."]);
    if (!shown.length) found.push([2, "Choose at least one global concept."]);
    const choices = [...this.types.filter((each) => each.id === panel_type), ...this.subtypes.filter((each) => each.id === panel_subtype)];
    for (const choice of shown.length ? choices : []) {
      if (choice.max_globals !== null && shown.length > choice.max_globals) {
        found.push([2, `“${choice.name}” holds at most ${choice.max_globals} global concepts; you chose ${shown.length}.`]);
      }
      for (const id of choice.requires) {
        if (!shown.some((each) => each.id === id)) found.push([2, `“${choice.name}” needs the global concept “${this.concepts.get(id).name}”.`]);
      }
    }
    return found;
  }

  // --- the page

  build() {
    this.parts = STEPS.map(({ name, asks }, step) => {
      const given = make("span", { className: "given" });
      const head = make("button", { type: "button", className: "head" }, make("span", { className: "number", textContent: step + 1 }), make("span", { className: "asks", textContent: asks }), given);
      const body = make("div", { className: "body", id: `question-${step}` });
      head.setAttribute("aria-controls", body.id);
      head.addEventListener("click", () => this.open(step));
      const question = make("fieldset", { className: "question" }, make("legend", {}, head), body);
      question.dataset.question = name;
      return { question, head, given, body };
    });
    this.root.replaceChildren(...this.parts.map((part) => part.question));
    const describe = (event) => this.describe(event.target.closest?.("[data-id]")?.dataset.id);
    this.root.addEventListener("mouseover", describe);
    this.root.addEventListener("focusin", describe);
    this.root.addEventListener("change", (event) => this.onChange(event));
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.root.addEventListener("pointerdown", () => (this.isPointer = true));
    this.root.addEventListener("keydown", () => (this.isPointer = false), true);
  }

  dispute(questions) {
    this.parts.forEach(({ question }) => question.classList.toggle("disputed", questions.includes(question.dataset.question)));
  }

  describe(id) {
    const found = id && (this.concepts.get(id) ?? [...this.types, ...this.subtypes].find((each) => each.id === id));
    if (!found || this.described === id) return;
    this.described = id;
    this.definition.replaceChildren(make("b", { textContent: found.name }), ` ${found.definition}`);
  }

  open(step, speaks = true) {
    const hadFocus = this.root.contains(document.activeElement);
    this.step = step;
    this.keys = new Map();
    this.described = null;
    this.definition.replaceChildren();
    this.parts.forEach(({ question, head, body }, each) => {
      question.classList.toggle("current", each === step);
      head.setAttribute("aria-expanded", each === step);
      if (each === step) body.replaceChildren(...this.options());
      else body.replaceChildren();
    });
    this.sync();
    if (hadFocus) this.parts[step].head.focus();
    this.parts[step].question.scrollIntoView({ block: "nearest" });
    if (speaks) this.announce(`Question ${step + 1} of 4: ${STEPS[step].asks}`);
  }

  options() {
    if (this.step === 0) return [this.list(this.types, "radio", "wide")];
    if (this.step === 1) {
      const subtypes = this.subtypesOfType();
      return subtypes.length ? [this.list(subtypes, "radio", "wide")] : [make("p", { className: "soft", textContent: "Choose a panel type first." })];
    }
    if (this.step === 2) return [this.list(this.globals, "checkbox", "two")];
    return [this.finder(), this.tree()];
  }

  list(choices, kind, look) {
    return make("div", { className: `options ${look}` }, ...choices.map((each) => this.option(each, kind, look === "wide")));
  }

  option(each, kind, isWide = false) {
    if (!this.keys.has(each.id) && this.keys.size < KEYS.length) this.keys.set(each.id, KEYS[this.keys.size]);
    const key = this.keys.get(each.id);
    const input = make("input", { type: kind, name: STEPS[this.step].name, value: each.id });
    const name = make("span", { className: "name", textContent: each.name });
    if (isWide) name.append(make("span", { className: "more", textContent: each.definition }));
    const option = make("label", { className: "option" }, input, name, make("span", { className: "tag" }));
    if (key) {
      const mark = make("kbd", { textContent: key });
      mark.setAttribute("aria-hidden", "true");
      option.prepend(mark);
    }
    option.dataset.id = each.id;
    return option;
  }

  tree() {
    const shown = this.shownGlobals();
    const tree = make("div", { className: "options two" });
    const all = shown.reduce((sum, each) => sum + this.size(each), 0);
    this.isAllUnfolded = all <= MAX_UNFOLDED;
    for (const each of shown) {
      if (shown.length > 1) tree.append(make("p", { className: "family", textContent: each.name }));
      if (!each.children.length) tree.append(make("p", { className: "soft", textContent: "Nothing below it." }));
      tree.append(...each.children.map((child) => this.branch(child)));
    }
    if (!shown.length) tree.append(make("p", { className: "soft", textContent: "Find one above; its global concept is chosen with it. Or choose global concepts first." }));
    this.treeElement = tree;
    return tree;
  }

  size(concept) {
    return concept.children.reduce((sum, each) => sum + 1 + this.size(each), 0);
  }

  isUnfolded(concept) {
    const picked = this.chosen.local_concepts;
    const holds = (each) => picked.has(each.id) || each.children.some(holds);
    return this.isAllUnfolded || this.unfolded.has(concept.id) || concept.children.some(holds);
  }

  branch(concept) {
    const option = this.option(concept, "checkbox");
    const branch = make("div", { className: "branch" }, option);
    if (concept.children.length) {
      const isOpen = this.isUnfolded(concept);
      const unfold = make("button", { type: "button", className: "unfold", tabIndex: -1, textContent: isOpen ? "▾" : `▸ ${this.size(concept)}` });
      unfold.setAttribute("aria-label", `${isOpen ? "Hide" : "Show"} what is below ${concept.name}`);
      unfold.setAttribute("aria-expanded", isOpen);
      unfold.addEventListener("click", (event) => {
        event.preventDefault();
        this.unfold(concept.id, !isOpen);
      });
      if (!this.isAllUnfolded) option.append(unfold);
      if (isOpen) branch.append(make("div", { className: "below" }, ...concept.children.map((child) => this.branch(child))));
    }
    return branch;
  }

  unfold(id, isOpen = true) {
    this.unfolded[isOpen ? "add" : "delete"](id);
    this.redraw();
  }

  // The tree again, with the focus where it was.
  redraw() {
    const focused = document.activeElement?.closest?.(".option")?.dataset.id;
    const old = this.treeElement;
    old.replaceWith(this.tree());
    this.sync();
    if (focused) this.input(focused)?.focus();
  }

  input(id) {
    return this.root.querySelector(`.option[data-id="${CSS.escape(id)}"] input`);
  }

  sync() {
    const implied = this.implied();
    const { panel_type, panel_subtype, global_concepts, local_concepts } = this.chosen;
    const picked = new Set([panel_type, panel_subtype, ...global_concepts, ...local_concepts]);
    for (const input of this.root.querySelectorAll(".option input")) {
      input.checked = picked.has(input.value);
      input.indeterminate = !input.checked && implied.has(input.value);
      const tag = input.parentElement.querySelector(".tag");
      tag.textContent = input.indeterminate ? "implied" : this.suggested.has(input.value) && !input.checked ? "•" : "";
      tag.title = tag.textContent === "•" ? "suggested" : "";
    }
    const name = (list, id) => list.find((each) => each.id === id)?.name ?? "";
    const locals = [...this.concepts.values()].filter((each) => local_concepts.has(each.id) || (implied.has(each.id) && each.parent !== null));
    const given = [name(this.types, panel_type), name(this.subtypes, panel_subtype), this.shownGlobals().map((each) => each.name).join(", "), locals.map((each) => each.name).join(", ")];
    this.parts.forEach((part, step) => (part.given.textContent = given[step]));
  }

  // --- choosing

  // isFinal   a single choice was made on purpose (not walked over), so the next question may open
  toggle(id, isFinal = true) {
    const { local_concepts, global_concepts } = this.chosen;
    if (this.step === 0) {
      if (this.chosen.panel_type !== id) this.chosen.panel_subtype = null;
      this.chosen.panel_type = id;
      const subtypes = this.subtypesOfType();
      if (subtypes.length === 1) this.chosen.panel_subtype = subtypes[0].id;
    } else if (this.step === 1) {
      this.chosen.panel_subtype = id;
    } else if (this.concepts.get(id).parent === null) {
      this.toggleGlobal(id);
    } else if (local_concepts.has(id)) {
      local_concepts.delete(id);
    } else {
      local_concepts.add(id);
      global_concepts.add(this.ancestors(id).at(-1).id);
      this.unfolded.add(id);
    }
    this.described = null;
    this.describe(id);
    this.changed();
    if (this.step < 2 && isFinal) this.next();
    else if (this.step === 3) this.redraw();
    else this.sync();
  }

  // A global concept that goes takes the local ones below it along.
  toggleGlobal(id) {
    const { local_concepts, global_concepts } = this.chosen;
    const below = [...local_concepts].filter((each) => this.ancestors(each).at(-1).id === id);
    if (!global_concepts.has(id) && !below.length) {
      global_concepts.add(id);
      return;
    }
    global_concepts.delete(id);
    for (const each of below) local_concepts.delete(each);
    if (below.length) this.announce(`Taken away with it: ${below.map((each) => this.concepts.get(each).name).join(", ")}`);
  }

  onChange(event) {
    if (!event.target.matches(".option input")) return;
    this.toggle(event.target.value, this.isPointer);
  }

  // Picks the option with a key; false where there is none.
  press(key) {
    const found = [...this.keys].find(([, each]) => each === key);
    if (!found) return false;
    this.toggle(found[0]);
    const name = this.concepts.get(found[0])?.name;
    if (name) this.announce(`${name} ${this.isPicked(found[0]) ? "chosen" : "taken away"}`);
    return true;
  }

  isPicked(id) {
    return this.chosen.local_concepts.has(id) || this.chosen.global_concepts.has(id);
  }

  next() {
    const isSingle = this.step === 0 && this.subtypesOfType().length === 1;
    const step = this.step + (isSingle ? 2 : 1);
    if (step >= STEPS.length) return false;
    this.open(step);
    return true;
  }

  back() {
    const isSingle = this.step === 2 && this.subtypesOfType().length === 1;
    const step = this.step - (isSingle ? 2 : 1);
    if (step >= 0) this.open(step);
  }

  onKey(event) {
    const input = event.target;
    if (!input.matches(".option input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const id = input.value;
    if (input.type === "radio" && event.key.startsWith("Arrow")) {
      event.stopPropagation(); // the browser walks radio buttons
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const all = [...this.root.querySelectorAll(".option input")];
      all[all.indexOf(input) + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
      event.preventDefault();
      event.stopPropagation();
    } else if ((event.key === "ArrowRight" || event.key === "ArrowLeft") && this.step === 3) {
      if (this.concepts.get(id).children.length) this.unfold(id, event.key === "ArrowRight");
      event.preventDefault();
      event.stopPropagation();
    } else if (event.key === " ") {
      event.stopPropagation(); // the browser checks the box
    }
  }

  // --- finding local concepts

  finder() {
    const input = make("input", { type: "search", id: "find", placeholder: "Find a concept  /", autocomplete: "off", spellcheck: false });
    const label = make("label", { className: "sr", htmlFor: "find", textContent: "Find a local concept by name or meaning" });
    const matches = make("ul", { className: "matches", id: "matches", hidden: true });
    const settings = { role: "combobox", "aria-expanded": "false", "aria-controls": "matches", "aria-autocomplete": "list" };
    for (const [name, value] of Object.entries(settings)) input.setAttribute(name, value);
    matches.setAttribute("role", "listbox");
    matches.setAttribute("aria-label", "Concepts that match");
    this.find = { input, matches, found: [], at: 0 };
    input.addEventListener("input", () => this.search());
    input.addEventListener("keydown", (event) => this.onFindKey(event));
    matches.addEventListener("click", (event) => {
      const id = event.target.closest("li[data-id]")?.dataset.id;
      if (id) this.take(id);
    });
    return make("div", { className: "find" }, label, input, matches);
  }

  focusFilter() {
    if (this.step !== 3) this.open(3);
    this.find.input.focus();
    this.find.input.select();
  }

  search() {
    const words = this.find.input.value.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
    this.find.found = words.length ? this.ranked(words).slice(0, MAX_MATCHES) : [];
    this.find.at = 0;
    this.showMatches(words.length > 0);
  }

  // Names that begin with the text, then names with all words, other names, definitions.
  ranked(words) {
    const split = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
    const begins = (parts) => words.every((word) => parts.some((part) => part.startsWith(word)));
    const rank = (each) => {
      const name = split(each.name);
      if (name.join(" ").startsWith(words.join(" "))) return 0;
      if (begins(name)) return 1;
      if (begins([...name, ...split(each.id), ...each.published.flatMap(split)])) return 2;
      return begins([...name, ...split(each.definition)]) ? 3 : 4;
    };
    const locals = [...this.concepts.values()].filter((each) => each.parent !== null);
    return locals.map((each) => [rank(each), each]).filter(([place]) => place < 4).sort((a, b) => a[0] - b[0]).map(([, each]) => each);
  }

  showMatches(isSearching) {
    const { input, matches, found, at } = this.find;
    matches.hidden = !isSearching || !found.length;
    this.treeElement.hidden = isSearching;
    input.setAttribute("aria-expanded", !matches.hidden);
    matches.replaceChildren(
      ...found.map((each, place) => {
        const path = this.ancestors(each.id).map((above) => above.name).reverse().join(" › ");
        const item = make("li", { id: `match-${place}` }, each.name);
        if (this.chosen.local_concepts.has(each.id)) item.append(make("span", { className: "tick", textContent: "✓" }));
        item.append(make("span", { className: "path", textContent: path }));
        item.dataset.id = each.id;
        item.setAttribute("role", "option");
        item.setAttribute("aria-selected", place === at);
        return item;
      }),
    );
    this.find.none?.remove();
    if (isSearching && !found.length) {
      this.find.none = make("p", { className: "soft", textContent: "Nothing by that name." });
      matches.after(this.find.none);
    }
    if (found.length && isSearching) {
      input.setAttribute("aria-activedescendant", `match-${at}`);
      this.describe(found[at].id);
      matches.children[at].scrollIntoView({ block: "nearest" });
    } else {
      input.removeAttribute("aria-activedescendant");
    }
  }

  take(id) {
    this.find.input.value = "";
    this.find.found = [];
    this.showMatches(false);
    this.toggle(id);
    this.announce(`${this.concepts.get(id).name} ${this.isPicked(id) ? "chosen" : "taken away"}`);
  }

  onFindKey(event) {
    const { input, found } = this.find;
    const walk = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (walk && found.length) {
      this.find.at = (this.find.at + walk + found.length) % found.length;
      this.showMatches(true);
      event.preventDefault();
    } else if (event.key === "ArrowDown" && !input.value) {
      this.treeElement.querySelector("input")?.focus();
      event.preventDefault();
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (found.length) this.take(found[this.find.at].id);
      else if (!input.value) this.finish();
    } else if (event.key === "Escape" || (event.key === "Backspace" && !input.value)) {
      event.preventDefault();
      input.value = "";
      this.search();
      input.blur();
    }
    event.stopPropagation();
  }
}
