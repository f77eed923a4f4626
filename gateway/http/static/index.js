// The overview: asks the gateway once a second, and shows what it says. Nothing on this page changes anything.

import { Spark } from "./charts.js";
import * as format from "./format.js";
import { $, Watch, ask, made, rows, themed } from "./shell.js";
import { StreamMap } from "./stream-map.js";

const PERIOD_MS = 1000;
const SLOW = 2; // lists are asked for every second time
const EVENTS = 50;
const GROUPS = 100;
const LAG_MS = 10_000; // between two lags of a line, as the gateway remembers them
const LAGS = 360;
const REMEMBERED = 20; // groups whose last hour is asked for
const GROUP_CELLS = { 0: "name", 1: "n", 2: "trend", 4: "n", 5: "topics" };

const map = new StreamMap(() => {
  history.replaceState(null, "", "#"); // the list says what there is
  choose(null);
  round = 0;
});
const PAST = 300; // of the lines: ten minutes, a point every second time, as the gateway remembers them
const sparks = ["in", "out", "record"].map((name) => new Spark($(`${name}-spark`), { most: PAST }));
const groupSparks = new Map();
let before = null;
let marked = null; // what the last point of the lines was counted up to
let stream = null;
let round = 0;
let newestEvent = null;

// Asking

// What came before this page: it is as long as the gateway's memory, not as this page's.
async function remember() {
  const told = await ask("history");
  const perSecond = (values) => values.map((value) => (1000 * value) / told.period_ms);
  [told.bytes_in, told.bytes_out, told.records_in].forEach((values, n) => sparks[n].show(perSecond(values)));
}

async function once() {
  if (before === null) await remember();
  showTotals(await ask("overview"));
  if (round % SLOW === 0) {
    showStreams(await ask("streams"));
    const [events, groups] = await Promise.all([ask(`events?limit=${EVENTS}`), ask(`groups?limit=${GROUPS}`)]);
    showEvents(events);
    showGroups(groups);
  }
  round += 1;
  await map.ask();
}

// What is a rate goes where nothing is heard; the rest says of when it is.
const watch = new Watch((is) => {
  if (is) {
    before = null;
    for (const id of ["in-rate", "out-rate", "record-rate"]) $(id).textContent = "–";
  }
  map.setStale(is);
});

// Showing

function showTotals(told) {
  if (before && told.time_ms > before.time_ms) {
    const seconds = (told.time_ms - before.time_ms) / 1000;
    const rate = (name) => Math.max(0, (told[name] - before[name]) / seconds);
    $("in-rate").textContent = `${format.bytes(rate("produced_bytes"))}/s`;
    $("out-rate").textContent = `${format.bytes(rate("fetched_bytes"))}/s`;
    $("record-rate").textContent = `${format.short(rate("produced_records"))}/s`;
    if (round % SLOW === 0) {
      const since = (told.time_ms - marked.time_ms) / 1000;
      const names = ["produced_bytes", "fetched_bytes", "produced_records"];
      names.forEach((name, n) => sparks[n].push(Math.max(0, (told[name] - marked[name]) / since)));
      marked = told;
    }
  } else {
    marked = told;
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
  map.choose(name);
  if (name !== null) history.replaceState(null, "", `#${encodeURIComponent(name)}`);
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
    [group.name, "group.html", { group: group.name }],
    format.whole(group.lag),
    null,
    group.state,
    format.whole(group.members),
    group.topics.map((one) => `${one.topic} (${format.short(one.lag)})`).join(", "),
  ], GROUP_CELLS);
  told.groups.forEach((group, n) => {
    const cell = $("groups").children[n].querySelector(".trend");
    let own = groupSparks.get(group.name);
    if (!own) {
      own = { place: made("div", ""), pushedMs: 0 };
      own.spark = new Spark(own.place, { area: false, most: LAGS });
      groupSparks.set(group.name, own);
      if (n < REMEMBERED) recall(group.name, own);
    }
    if (Date.now() - own.pushedMs >= LAG_MS) {
      own.spark.push(group.lag);
      own.pushedMs = Date.now();
    }
    if (own.place.parentNode !== cell) cell.replaceChildren(own.place);
  });
  const names = new Set(told.groups.map((group) => group.name));
  for (const name of groupSparks.keys()) if (!names.has(name)) groupSparks.delete(name);
}

// The lags from before this page; without them the line begins here.
async function recall(name, own) {
  const told = await ask(`groups/${encodeURIComponent(name)}/history`).catch(() => null);
  if (told) own.spark.show(told.lags);
}

$("stream").addEventListener("change", () => {
  choose($("stream").value);
  map.ask().catch(() => {});
});
addEventListener("hashchange", () => {
  if (named() === "" || named() === stream) return;
  choose(named());
  $("stream").value = stream;
  map.ask().catch(() => {});
});
themed((theme) => map.setTheme(theme));
watch.repeat(once, PERIOD_MS);
