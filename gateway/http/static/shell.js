// What every page has: the head with its links, the colours, the state of the connection, requests, tables.
//
// Everything that comes from outside goes into the page as text (textContent, attributes), never as markup.

import * as format from "./format.js";

export const API = new URL("../api/v1/", import.meta.url);
const THEME = "penstock.theme";
const TOKEN = "penstock.token";
const STALE_MS = 3000; // without an answer for so long, what is shown is no news
const ANSWER_MS = 10_000;
const FAILURE_CHARS = 600;

export const $ = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");

// Requests

export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const token = stored(TOKEN, undefined, sessionStorage);
  if (token) headers.Authorization = `Bearer ${token}`;
  const timeout = AbortSignal.timeout(ANSWER_MS);
  const answer = await fetch(new URL(path, API), {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    cache: "no-store",
  });
  const told = await answer.json();
  if (answer.ok) return told;
  if (answer.status === 401) askToken();
  throw Object.assign(new Error(String(told.detail ?? answer.statusText).slice(0, FAILURE_CHARS)), { status: answer.status });
}

// A gateway with a token takes changes, and shows records, to whoever has it. It is kept until the tab is closed.
function askToken() {
  if ($("token")) return;
  const form = made("form", "", "panel wide token");
  const label = made("label", "This needs the gateway's http.token", "field");
  const field = Object.assign(made("input"), { type: "password", id: "token", autocomplete: "off" });
  label.append(field);
  form.append(label, Object.assign(made("button", "Use it"), { type: "submit" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    stored(TOKEN, field.value, sessionStorage);
    form.remove();
    document.dispatchEvent(new Event("token"));
  });
  document.querySelector("main").prepend(form);
}

export function query(values) {
  const told = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) if (value !== null && value !== undefined && value !== "") told.set(name, value);
  return told.toString();
}

// The state of the connection: old numbers are not left to be taken for new ones.

export class Watch {
  // `stopped` is called with whether what is shown is old.
  constructor(stopped = () => {}) {
    this.stopped = stopped;
    this.heardMs = 0; // when the gateway answered last, by the clock of this machine
    this.stale = false;
    document.addEventListener("visibilitychange", () => this.look());
    setInterval(() => this.look(), 1000);
  }

  // A request that hangs is no answer either; nor is what was shown before somebody came back to this page.
  look() {
    if (!document.hidden && this.heardMs > 0 && Date.now() - this.heardMs > Math.max(STALE_MS, 2.5 * this.periodMs)) this.set(true);
  }

  heard() {
    this.heardMs = Date.now();
    this.set(false);
    status("good", "Live");
  }

  failed(error) {
    if (error.status !== undefined && error.status < 500) {
      this.heardMs = Date.now();
      this.set(false);
      status("bad", error.message);
    } else this.set(true);
  }

  set(is) {
    if (is) {
      status("bad", "The gateway does not answer; trying again");
      if (this.heardMs > 0) $("stale").textContent = `The gateway has not answered since ${format.time(this.heardMs)}. What is shown is of that time.`;
      this.stopped(true);
    }
    if (is === this.stale) return;
    this.stale = is;
    document.body.classList.toggle("stale", is);
    $("stale").hidden = !is || this.heardMs === 0;
    document.title = is ? "Penstock: no answer" : title;
    if (!is) this.stopped(false);
  }

  // Do it again and again, while somebody looks. It is done at once after `poke()`.
  repeat(what, periodMs) {
    this.periodMs = periodMs;
    let timer = null;
    let busy = false;
    let again = false;
    const turn = async () => {
      if (busy) {
        again = true;
        return;
      }
      clearTimeout(timer);
      busy = true;
      if (!document.hidden) {
        try {
          await what();
          this.heard();
        } catch (error) {
          this.failed(error);
        }
      }
      busy = false;
      timer = setTimeout(turn, again ? 0 : this.periodMs);
      again = false;
    };
    this.poke = turn;
    document.addEventListener("token", turn);
    turn();
  }

  periodMs = 1000;
}

const title = document.title;

function status(kind, text) {
  $("status").className = kind;
  if ($("status-text").textContent !== text) $("status-text").textContent = text;
}

// Elements

export function made(name, text = "", className = "") {
  const element = document.createElement(name);
  if (text) element.textContent = text;
  if (className) element.className = className;
  return element;
}

export function link(text, page, values = {}) {
  const told = query(values);
  const there = new URL(page, new URL("./", import.meta.url));
  return Object.assign(made("a", text), { href: told ? `${there}?${told}` : String(there) });
}

// A table's rows, changed where they differ: what somebody reads or has selected stays. A cell is a text, null (left as
// it is), or [text, page, values]: a link. `classes` are the cells' own.
export function rows(body, items, cells, classes = {}) {
  while (body.children.length > items.length) body.lastChild.remove();
  items.forEach((item, n) => {
    const texts = cells(item);
    let row = body.children[n];
    if (!row) {
      row = made("tr");
      texts.forEach((_, at) => {
        const cell = made(at === 0 ? "th" : "td", "", classes[at] ?? "");
        if (at === 0) cell.scope = "row";
        row.append(cell);
      });
      body.append(row);
    }
    texts.forEach((text, at) => {
      const cell = row.children[at];
      if (text === null) return;
      if (Array.isArray(text)) {
        const wanted = link(...text);
        if (cell.firstChild?.href !== wanted.href || cell.textContent !== text[0]) cell.replaceChildren(wanted);
      } else if (cell.textContent !== text) cell.textContent = text;
    });
  });
}

export function failure(place, error) {
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}

// A download of what is shown.
export function save(name, parts, type) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  const away = Object.assign(made("a"), { href: url, download: name });
  document.body.append(away);
  away.click();
  away.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// What people choose

export function stored(name, value, place = localStorage) {
  try {
    if (value !== undefined) place.setItem(name, value);
    return place.getItem(name);
  } catch {
    return null; // a browser that keeps nothing
  }
}

export function theme() {
  const chosen = $("theme").value;
  return chosen === "auto" ? (dark.matches ? "dark" : "light") : chosen;
}

// `changed` is called with the theme, now and whenever another is chosen.
export function themed(changed = () => {}) {
  const apply = () => {
    document.documentElement.dataset.theme = theme();
    changed(theme());
  };
  $("theme").value = ["light", "dark"].includes(stored(THEME)) ? stored(THEME) : "auto";
  $("theme").addEventListener("change", () => {
    stored(THEME, $("theme").value);
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}
