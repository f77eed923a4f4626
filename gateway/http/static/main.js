// The page: asks the gateway once a second, and shows what it says. Nothing here changes anything in the gateway.

import { Spark } from "./charts.js";
import * as format from "./format.js";
import { SegmentMap } from "./map.js";

const PERIOD_MS = 1000;
const SLOW = 2; // lists are asked for every second time
const EVENTS = 50;
const GROUPS = 100;
const TABLE_ROWS = 500;
const STALE_MS = 3000; // without an answer for so long, what is shown is no news
const YOUNG_MS = 120_000; // a stream of less than that is shown closer
const THEME = "penstock.theme";

const $ = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");
const map = new SegmentMap($("map"), { readout: $("readout"), ramp: $("ramp"), rampMax: $("ramp-max") });
const sparks = { in: new Spark($("in-spark")), out: new Spark($("out-spark")), records: new Spark($("record-spark")) };
const groupSparks = new Map();
let before = null;
let stream = null;
let round = 0;
let newestEvent = null;
let hasChosenWindow = false;
let heardMs = 0; // when the gateway answered last, by the clock of this machine
let stale = false;

// Asking

async function ask(path) {
  const answer = await fetch(`api/v1/${path}`, { signal: AbortSignal.timeout(10_000), cache: "no-store" });
  const told = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(told.detail ?? answer.statusText), { status: answer.status });
  return told;
}

async function once() {
  showTotals(await ask("overview"));
  if (round % SLOW === 0) {
    showStreams(await ask("streams"));
    const [events, groups] = await Promise.all([ask(`events?limit=${EVENTS}`), ask(`groups?limit=${GROUPS}`)]);
    showEvents(events);
    showGroups(groups);
  }
  round += 1;
  await askMap();
}

async function askMap() {
  if (stream === null) return showNoStream();
  const asked = stream;
  const since = Math.max(0, map.sinceMs());
  try {
    const told = await ask(`streams/${encodeURIComponent(asked)}/map?since_ms=${since}`);
    if (asked === stream) showMap(told, since);
  } catch (error) {
    if (error.status !== 404) throw error; // deleted a moment ago, or a name that never was: the list says what there is
    history.replaceState(null, "", "#");
    choose(null);
    round = 0;
  }
}

async function poll() {
  if (!document.hidden) {
    try {
      await once();
      heardMs = Date.now();
      setStale(false);
      status("good", "Live");
    } catch {
      setStale(true);
    }
  }
  setTimeout(poll, PERIOD_MS);
}

// A request that hangs is no answer either; nor is what was shown before somebody came back to this page.
function watch() {
  if (!document.hidden && heardMs > 0 && Date.now() - heardMs > STALE_MS) setStale(true);
}

// Old numbers are not left to be taken for new ones: what is a rate goes, the rest says of when it is.
function setStale(is) {
  if (is) {
    before = null;
    for (const id of ["in-rate", "out-rate", "record-rate", "segment-count"]) $(id).textContent = "–";
    status("bad", "The gateway does not answer; trying again");
    if (heardMs > 0) $("stale").textContent = `The gateway has not answered since ${format.time(heardMs)}. What is shown is of that time.`;
  }
  if (is === stale) return;
  stale = is;
  document.body.classList.toggle("stale", is);
  $("stale").hidden = !is || heardMs === 0;
  document.title = is ? "Penstock: no answer" : "Penstock";
  map.setStopped(is);
  axis();
  if ($("table-box").open) showTable(map.active());
}

function status(kind, text) {
  $("status").className = kind;
  if ($("status-text").textContent !== text) $("status-text").textContent = text;
}

// Showing

function showTotals(told) {
  if (before && told.time_ms > before.time_ms) {
    const seconds = (told.time_ms - before.time_ms) / 1000;
    const rate = (name) => Math.max(0, (told[name] - before[name]) / seconds);
    $("in-rate").textContent = `${format.bytes(rate("produced_bytes"))}/s`;
    $("out-rate").textContent = `${format.bytes(rate("fetched_bytes"))}/s`;
    $("record-rate").textContent = `${format.short(rate("produced_records"))}/s`;
    sparks.in.push(rate("produced_bytes"));
    sparks.out.push(rate("fetched_bytes"));
    sparks.records.push(rate("produced_records"));
  }
  before = told;
  tier("log", "Durable log", told.log_bytes, told.log_limit_bytes, "of log.max.bytes");
  const most = Math.max(told.chunk_bytes, told.log_limit_bytes);
  if (told.long_term) tier("chunks", "Long-term storage", told.chunk_bytes, most, "in chunks", false);
  tier("cache", "Tail cache", told.cache_bytes, told.cache_limit_bytes, "of log.cache.bytes");
  $("version").textContent = `Penstock ${told.version}, cluster ${told.cluster_id}, ${format.plural(told.topics, "topic")}, ${format.plural(told.connections, "connection")}`;
}

function tier(name, title, size, limit, what, hasLimit = true) {
  let row = $("tiers").querySelector(`.${name}`);
  if (!row) {
    row = made("div", "", name);
    row.append(made("dt", title), made("dd", ""), made("dd", "", "bar"), made("dd", "", "note"));
    row.children[2].append(made("span", ""));
    $("tiers").append(row);
  }
  row.children[1].textContent = format.bytes(size);
  row.children[2].firstChild.style.width = `${Math.min(100, limit > 0 ? (100 * size) / limit : 0)}%`;
  row.children[3].textContent = hasLimit ? `${limit > 0 ? ((100 * size) / limit).toFixed(1) : 0} % ${what} (${format.bytes(limit)})` : what;
}

function showStreams(told) {
  const select = $("stream");
  const names = told.streams.map((one) => one.name);
  if (stream !== null && !names.includes(stream) && !hasMore(told)) choose(null);
  if (stream === null && names.length > 0) {
    const busiest = [...told.streams].sort((a, b) => b.rate_bytes - a.rate_bytes || b.segments - a.segments)[0].name;
    choose(names.includes(named()) || (named() !== "" && hasMore(told)) ? named() : busiest);
  }
  const options = stream === null || names.includes(stream) ? names : [stream, ...names];
  if (options.join("/") !== [...select.options].map((option) => option.value).join("/")) {
    select.replaceChildren(...options.map((name) => Object.assign(made("option", name), { value: name })));
    select.disabled = options.length === 0;
  }
  if (stream !== null) select.value = stream;
}

// A list has a thousand streams at most; the others are reached by their address.
function hasMore(list) {
  return list.total > list.streams.length;
}

// The stream that the address names.
function named() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // no name is written like that
  }
}

function choose(name) {
  stream = name;
  map.clear();
  if (name !== null) history.replaceState(null, "", `#${encodeURIComponent(name)}`);
}

function showNoStream() {
  $("segment-count").textContent = "–";
  $("segment-note").textContent = "no stream yet";
  $("readout").textContent = "There is no stream yet. Produce a record, and its topic appears here.";
  $("map").setAttribute("aria-label", "There is no stream yet");
  $("limits").hidden = true;
  $("segments").replaceChildren();
}

function showMap(told, since) {
  map.update(told, since);
  if (!hasChosenWindow && told.segments.length > 0) {
    if (map.ageMs() < YOUNG_MS) pick(YOUNG_MS);
    hasChosenWindow = true;
  }
  if ($("axis-x").lastChild.textContent !== right()) axis();
  const active = map.active();
  const count = told.state === "sealed" ? "sealed" : format.whole(active.length);
  $("segment-count").textContent = count;
  $("segment-note").textContent = `epoch ${told.epoch}, ${format.plural(told.slots, "slot")}, scaling: ${told.scaling.policy}`;
  const visible = map.visible().length;
  const label = `Stream ${told.name}: ${format.plural(active.length, "active segment")}, ${format.plural(visible, "segment")} in the time shown`;
  if ($("map").getAttribute("aria-label") !== label) $("map").setAttribute("aria-label", label);
  const notices = [...told.limits];
  if (told.sealed_ms !== null) notices.push(`Sealed at ${format.time(told.sealed_ms)}: this stream can be read, and takes no more records.`);
  if (told.truncated) notices.push("There were more segments than can be shown: the oldest are left out.");
  $("limits").hidden = notices.length === 0;
  $("limits").textContent = notices.join(" ");
  if ($("table-box").open) showTable(active);
}

function showTable(active) {
  rows($("segments"), active.slice(0, TABLE_ROWS), (own) => [
    String(own.id),
    `${format.key(own.low)} to ${format.key(own.high)}`,
    format.whole(own.slots),
    format.time(own.opened),
    stale ? "–" : format.bytes(own.rate),
    stale ? "–" : format.short(own.events),
    format.bytes(own.bytes),
  ]);
}

function showEvents(told) {
  $("no-events").hidden = told.events.length > 0;
  const newest = told.events[0];
  const mark = newest ? `${newest.stream}/${newest.epoch}` : "";
  if (mark === newestEvent) return;
  if (newestEvent !== null && newest) $("announce").textContent = sentence(newest);
  newestEvent = mark;
  $("events").replaceChildren(
    ...told.events.map((event) => {
      const item = made("li", "");
      const when = made("time", format.time(event.time_ms));
      when.dateTime = new Date(event.time_ms).toISOString();
      const why = made("span", `${event.stream}: ${event.reason}`, "why");
      why.append(made("small", `sealed ${listed(event.sealed)}, opened ${listed(event.opened)}`));
      item.append(when, made("span", event.kind, "kind"), why);
      return item;
    }),
  );
}

function sentence(event) {
  return `${event.kind} of ${event.stream}: ${event.reason}`;
}

function listed(numbers) {
  return numbers.length > 8 ? `${numbers.slice(0, 8).join(", ")} and ${numbers.length - 8} more` : numbers.join(", ");
}

function showGroups(told) {
  $("no-groups").hidden = told.groups.length > 0;
  $("groups-table").hidden = told.groups.length === 0;
  rows($("groups"), told.groups, (group) => [
    group.name,
    format.whole(group.lag),
    null,
    group.state,
    format.whole(group.members),
    group.topics.map((one) => `${one.topic} (${format.short(one.lag)})`).join(", "),
  ]);
  told.groups.forEach((group, n) => {
    const cell = $("groups").children[n].querySelector(".trend");
    let own = groupSparks.get(group.name);
    if (!own) {
      own = { place: made("div", "") };
      own.spark = new Spark(own.place, { area: false, most: 90 });
      groupSparks.set(group.name, own);
    }
    own.spark.push(group.lag);
    if (own.place.parentNode !== cell) cell.replaceChildren(own.place);
  });
  const names = new Set(told.groups.map((group) => group.name));
  for (const name of groupSparks.keys()) if (!names.has(name)) groupSparks.delete(name);
}

const NUMBERS = { segments: [2, 4, 5, 6], groups: [1, 4] };

// A table's rows, changed where they differ: what somebody reads or has selected stays.
function rows(body, items, cells) {
  while (body.children.length > items.length) body.lastChild.remove();
  items.forEach((item, n) => {
    const texts = cells(item);
    let row = body.children[n];
    if (!row) {
      row = made("tr", "");
      texts.forEach((_, at) => {
        const cell = made(at === 0 ? "th" : "td", "");
        if (at === 0) cell.scope = "row";
        if (NUMBERS[body.id].includes(at)) cell.className = "n";
        if (body.id === "groups") cell.classList.add(...({ 2: ["trend"], 5: ["topics"] }[at] ?? []));
        row.append(cell);
      });
      body.append(row);
    }
    texts.forEach((text, at) => {
      if (text !== null && row.children[at].textContent !== text) row.children[at].textContent = text;
    });
  });
}

function made(name, text, className = "") {
  const element = document.createElement(name);
  if (text) element.textContent = text;
  if (className) element.className = className;
  return element;
}

// What people choose

function applyTheme() {
  const chosen = $("theme").value;
  const theme = chosen === "auto" ? (dark.matches ? "dark" : "light") : chosen;
  document.documentElement.dataset.theme = theme;
  map.setTheme(theme);
}

function right() {
  if (map.endMs !== Infinity) return "sealed";
  return stale ? format.time(heardMs) : "now";
}

function axis() {
  const seconds = Number(document.querySelector("#window input:checked").value);
  const unit = seconds >= 7200 ? [3600, "h"] : seconds > 120 ? [60, "min"] : [1, "s"];
  const ticks = [0, 0.25, 0.5, 0.75].map((part) => [part, `−${+((seconds * (1 - part)) / unit[0]).toFixed(1)} ${unit[1]}`]);
  $("axis-x").replaceChildren(
    ...[...ticks, [1, right()]].map(([part, text]) => {
      const tick = made("span", text);
      tick.style.left = `${100 * part}%`;
      if (part === 0) tick.style.transform = "none";
      if (part === 1) tick.style.transform = "translateX(-100%)";
      return tick;
    }),
  );
  map.setWindow(seconds);
}

function pick(ms) {
  document.querySelector(`#window input[value="${ms / 1000}"]`).checked = true;
  axis();
}

function stored(value) {
  try {
    if (value !== undefined) localStorage.setItem(THEME, value);
    return localStorage.getItem(THEME);
  } catch {
    return null; // a browser that keeps nothing
  }
}

$("theme").value = ["light", "dark"].includes(stored()) ? stored() : "auto";
$("theme").addEventListener("change", () => {
  stored($("theme").value);
  applyTheme();
});
dark.addEventListener("change", applyTheme);
$("stream").addEventListener("change", () => {
  choose($("stream").value);
  askMap().catch(() => {});
});
addEventListener("hashchange", () => {
  if (named() === "" || named() === stream) return;
  choose(named());
  $("stream").value = stream;
  askMap().catch(() => {});
});
$("window").addEventListener("change", () => {
  hasChosenWindow = true;
  axis();
  askMap().catch(() => {});
});
$("table-box").addEventListener("toggle", () => showTable(map.active()));
document.addEventListener("visibilitychange", watch);
setInterval(watch, PERIOD_MS);
applyTheme();
axis();
poll();
