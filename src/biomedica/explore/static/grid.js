// The images of a cluster: walk, mark outliers, enlarge.

import { find } from "./page.js";

const KINDS = { nearest: "near the centre of the cluster", random: "drawn at random from the cluster", farthest: "far from the centre of the cluster" };

export class Grid {
  // changed   called when a mark changes; null: images can't be marked
  constructor(changed = null) {
    this.list = find("#grid");
    this.template = find("#tile");
    this.changed = changed;
    this.images = [];
    this.outliers = new Set();
    this.current = 0;
    this.anchor = null;
    this.lightbox = find("#lightbox");
    new ResizeObserver(() => this.fit()).observe(this.list);
    this.listenToLightbox();
  }

  show(images, outliers = []) {
    this.images = images;
    this.outliers = new Set(outliers.filter((key) => images.some((image) => image.key === key)));
    this.current = 0;
    this.anchor = null;
    this.list.replaceChildren(...images.map((image, place) => this.tile(image, place)));
    this.fit();
    this.sync();
  }

  tile(image, place) {
    const tile = this.template.content.firstElementChild.cloneNode(true);
    const [picture, zoom] = tile.querySelectorAll("button");
    const img = picture.firstElementChild;
    img.src = `/thumb/${encodeURIComponent(image.key)}`;
    img.addEventListener("error", () => picture.replaceChildren("This picture cannot be shown"));
    const begins = image.caption.slice(0, 120);
    picture.setAttribute("aria-label", `Image ${place + 1} of ${this.images.length}: ${begins}`);
    picture.title = image.caption.length > 300 ? `${image.caption.slice(0, 300)}…` : image.caption;
    zoom.setAttribute("aria-label", `Enlarge image ${place + 1}`);
    if (image.marked) {
      tile.classList.add("marked");
      tile.querySelector(".flag").textContent = `outlier: ${image.marked}`;
    }
    picture.addEventListener("click", (event) => {
      this.current = place;
      if (!this.changed) this.enlarge();
      else this.mark(place, event.shiftKey);
      this.sync();
    });
    picture.addEventListener("focus", () => {
      this.current = place;
      this.sync();
    });
    zoom.addEventListener("click", () => {
      this.current = place;
      this.enlarge();
    });
    return tile;
  }

  // Tiles as large as the room allows, so that all are in view; from square to half as wide again.
  fit() {
    const gap = 6;
    const width = this.list.clientWidth - 6;
    const height = this.list.clientHeight - 6;
    const count = Math.max(1, this.images.length);
    if (matchMedia("(max-width: 700px)").matches) {
      this.columns = Math.max(3, Math.floor(width / 150)); // images stand above the questions, the page scrolls
      const side = (width - gap * (this.columns - 1)) / this.columns;
      this.size(side, side);
      return;
    }
    let best = { columns: 1, wide: 0, high: 0, side: 0 };
    for (let columns = 1; columns <= count; columns++) {
      const wide = (width - gap * (columns - 1)) / columns;
      const high = height / Math.ceil(count / columns) - gap;
      const side = Math.min(wide / 1.15, high);
      if (side > best.side) best = { columns, wide, high, side };
    }
    let { columns, wide, high } = best;
    if (best.side < 76) {
      columns = Math.max(2, Math.floor((width + gap) / (112 + gap)));
      wide = (width - gap * (columns - 1)) / columns;
      high = wide;
    }
    this.columns = columns;
    wide = Math.min(wide, 330, high * 1.5);
    this.size(wide, Math.min(high, 280, wide));
  }

  size(wide, high) {
    this.list.style.setProperty("--columns", this.columns);
    this.list.style.setProperty("--tile-width", `${Math.floor(wide)}px`);
    this.list.style.setProperty("--tile-height", `${Math.floor(high)}px`);
  }

  sync() {
    [...this.list.children].forEach((tile, place) => {
      const picture = tile.firstElementChild;
      const isOut = this.outliers.has(this.images[place].key);
      tile.classList.toggle("outlier", isOut);
      if (this.changed) picture.setAttribute("aria-pressed", isOut);
      picture.tabIndex = place === this.current ? 0 : -1;
    });
  }

  focus() {
    this.list.children[this.current]?.firstElementChild.focus({ preventScroll: false });
  }

  walk(key) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns }[key];
    if (!this.list.contains(document.activeElement)) {
      this.focus(); // the first arrow shows where one is
      return;
    }
    const next = this.current + step;
    if (next >= 0 && next < this.images.length) this.current = next;
    this.focus();
    this.sync();
  }

  // upTo   from the image marked last to this one, all like that one
  mark(place = this.current, upTo = false) {
    if (!this.changed || !this.images.length) return;
    const { key } = this.images[place];
    if (upTo && this.anchor !== null) {
      const isOut = this.outliers.has(this.images[this.anchor].key);
      const [from, to] = [Math.min(this.anchor, place), Math.max(this.anchor, place)];
      for (const each of this.images.slice(from, to + 1)) this.outliers[isOut ? "add" : "delete"](each.key);
    } else if (!this.outliers.delete(key)) {
      this.outliers.add(key);
    }
    this.anchor = place;
    this.sync();
    this.changed();
  }

  get isEnlarged() {
    return this.lightbox.open;
  }

  enlarge() {
    if (!this.images.length) return;
    if (!this.lightbox.open) this.lightbox.showModal();
    const image = this.images[this.current];
    find("#lightbox-image").src = `/image/${encodeURIComponent(image.key)}`;
    find("#lightbox-image").alt = image.label ?? "Figure";
    find("#lightbox-title").textContent = image.label ?? "Figure";
    const kind = KINDS[image.kind] ? `, ${KINDS[image.kind]}` : "";
    find("#lightbox-place").textContent = `Image ${this.current + 1} of ${this.images.length}${kind}`;
    find("#lightbox-caption").textContent = image.caption;
    find("#lightbox-caption").scrollTop = 0;
    find("#lightbox-article").textContent = image.title ?? "no title";
    find("#lightbox-journal").textContent = image.journal ?? "not stated";
    find("#lightbox-licence").textContent = [image.licence ?? "not stated", image.rights].filter(Boolean).join(". ");
    const link = find("#lightbox-link");
    link.href = `https://pmc.ncbi.nlm.nih.gov/articles/${encodeURIComponent(image.pmcid)}/`;
    link.textContent = `${image.pmcid} at PMC`;
    const mark = find("#lightbox-mark");
    mark.hidden = !this.changed;
    mark.setAttribute("aria-pressed", this.outliers.has(image.key));
  }

  step(by) {
    this.current = (this.current + by + this.images.length) % this.images.length;
    this.enlarge();
    this.sync();
  }

  listenToLightbox() {
    const marked = () => {
      this.mark();
      this.enlarge();
    };
    find("#lightbox-before").addEventListener("click", () => this.step(-1));
    find("#lightbox-after").addEventListener("click", () => this.step(1));
    find("#lightbox-mark").addEventListener("click", marked);
    find("#lightbox-close").addEventListener("click", () => this.lightbox.close());
    this.lightbox.addEventListener("click", (event) => {
      if (event.target === this.lightbox) this.lightbox.close();
    });
    this.lightbox.addEventListener("close", () => this.focus());
    this.lightbox.addEventListener("keydown", (event) => {
      const does = { ArrowLeft: () => this.step(-1), ArrowUp: () => this.step(-1), ArrowRight: () => this.step(1), ArrowDown: () => this.step(1), o: marked, z: () => this.lightbox.close(), " ": () => this.lightbox.close() }[event.key];
      event.stopPropagation();
      const reads = event.target.id === "lightbox-caption" && ["ArrowUp", "ArrowDown"].includes(event.key);
      const presses = event.key === " " && event.target.matches("button, a");
      if (!does || reads || presses || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      does();
    });
  }
}

