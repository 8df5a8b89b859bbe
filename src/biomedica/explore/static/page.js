// What every page needs: posting with retries, words for the reader, small conveniences.

export const find = (selector) => document.querySelector(selector);
export const meta = (name) => find(`meta[name="${name}"]`)?.content ?? "";

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// The server said no, and why. Asking again would not help.
export class Refused extends Error {
  constructor(status, problems) {
    super(problems.join("; "));
    this.status = status;
    this.problems = problems;
  }
}

const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// POST until the server has answered: an event carries its own id, so that sending it again changes
// nothing. `waiting(true)` is called when it does not answer, `waiting(false)` when it does again.
export async function post(path, body, waiting = () => {}) {
  let pause = 500;
  let failures = 0;
  for (;;) {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": meta("csrf") },
      body: JSON.stringify(body),
    }).catch(() => null);
    if (response?.ok) {
      const found = await response.json().catch(() => null);
      if (found !== null) {
        waiting(false);
        return found;
      }
    } else if (response && (response.status < 500 || response.status === 503)) {
      const said = await response.json().catch(() => null); // a proxy without its server has no problems to tell
      if (response.status < 500 || said?.problems) {
        waiting(false);
        throw new Refused(response.status, said?.problems ?? [`the server answers ${response.status}`]);
      }
    } else if (response?.status === 500 && ++failures === 4) {
      waiting(false);
      throw new Refused(500, ["the server failed at this; tell the person who runs the round"]);
    }
    waiting(true);
    await wait(pause);
    pause = Math.min(2 * pause, 10000);
  }
}

export async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Refused(response.status, [`the server answers ${response.status}`]);
  return response.json();
}

export function eventId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // pages that don't come by https
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const digits = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [8, 12, 16, 20].reduceRight((text, at) => `${text.slice(0, at)}-${text.slice(at)}`, digits);
}

let hiding = 0;

// Words at the foot of the page, read out by screen readers; they go after a while unless they are to stay.
export function say(words, stays = false) {
  const status = find("#status");
  status.textContent = words;
  status.classList.toggle("shown", Boolean(words));
  clearTimeout(hiding);
  if (words && !stays) hiding = setTimeout(() => status.classList.remove("shown"), 5000);
}

let isAway = false;

export function away(isWaiting) {
  if (isWaiting && !isAway) {
    say("The server doesn’t answer. Your answer is kept here and sent as soon as it does.", true);
  } else if (!isWaiting && isAway) {
    say("The server answers again.");
  }
  isAway = isWaiting;
}

// Seconds that something is in view: a page in the background doesn't count.
export class Stopwatch {
  constructor() {
    this.restart();
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.before = this.seconds();
      this.since = document.hidden ? null : performance.now();
    });
  }

  restart(before = 0) {
    this.before = before;
    this.since = document.hidden ? null : performance.now();
  }

  seconds() {
    const now = this.since === null ? 0 : (performance.now() - this.since) / 1000;
    return Math.min(this.before + now, 86400);
  }
}

// Storage that may be full or forbidden: then nothing is kept, and the page works all the same.
export const keep = {
  read(name) {
    try {
      return JSON.parse(localStorage.getItem(name));
    } catch {
      return null;
    }
  },
  write(name, value) {
    try {
      localStorage.setItem(name, JSON.stringify(value));
    } catch {
      /* nothing to do */
    }
  },
  remove(name) {
    try {
      localStorage.removeItem(name);
    } catch {
      /* nothing to do */
    }
  },
};

export const number = (value) => value.toLocaleString("en");
export const many = (count, one, more) => `${number(count)} ${count === 1 ? one : more}`;

export function isTyping(target) {
  return target instanceof Element && target.matches("input:not([type=checkbox], [type=radio]), textarea, select");
}

export function hasModifier(event) {
  return event.ctrlKey || event.metaKey || event.altKey;
}
