// The messages of a topic: by offset, time or key; the newest as they come; each as JSON, text or bytes. And a new one.
//
// At most ROWS are kept and shown, at most PARTITIONS read together, and a search by key ends after SEARCH_CALLS.

import * as format from "./format.js";
import { $, Watch, ask, failure, link, made, query, save, themed } from "./shell.js";

const ROWS = 500;
const PAGE = 50;
const PARTITIONS = 32;
const LISTED = 1000; // partitions in the choice
const SEARCH_CALLS = 100;
const LIVE_MS = 1000;
const IDLE_MS = 3000;
const SHOWN_CHARS = 300;
const WHOLE_CHARS = 200_000;
const ALL = "all";

const asked = new URLSearchParams(location.search);
const topic = asked.get("topic") ?? "";
const path = `topics/${encodeURIComponent(topic)}`;
let shown = []; // newest first
let chosen = null;
let ends = new Map(); // by partition: the offset after the newest that live has seen
let turn = 0; // of the last question: answers to former ones are dropped

const watch = new Watch();

// Asking

function partitions() {
  if ($("partition").value !== ALL) return [Number($("partition").value)];
  return [...$("partition").options].filter((one) => one.value !== ALL).map((one) => Number(one.value));
}

function read(partition, wanted) {
  return ask(`${path}/records?${query({ partition, ...wanted })}`);
}

// The records of a question, for one partition; at most `most`. It calls again until there are some, or no more.
async function found(partition, from, most, mine) {
  const key = $("key").value === "" ? undefined : $("key").value;
  const { start_offset: start, end_offset: end } = await read(partition, {});
  if (from.kind === "newest" || from.kind === "before") return older(partition, Math.min(from.value ?? end, end), start, key, most, mine);
  let page = await read(partition, { ...begin(from, start), max: most, key });
  let records = page.records;
  for (let calls = 1; records.length < most && page.next_offset < end && calls < SEARCH_CALLS && mine === turn; calls += 1) {
    page = await read(partition, { offset: page.next_offset, max: most - records.length, key });
    records = records.concat(page.records);
  }
  return records.map((one) => ({ partition, ...one }));
}

function begin(from, start) {
  if (from.kind === "oldest") return { offset: start };
  if (from.kind === "time") return { since_ms: from.value };
  return { offset: Math.max(from.value, start) };
}

// The last `most` records before an offset: looked for backwards, in steps that grow while nothing is found.
async function older(partition, before, start, key, most, mine) {
  let records = [];
  let until = before;
  let step = most;
  for (let calls = 0; until > start && records.length < most && calls < SEARCH_CALLS && mine === turn; ) {
    const from = Math.max(start, until - step);
    let some = [];
    for (let next = from; next < until && calls < SEARCH_CALLS && mine === turn; calls += 1) {
      const page = await read(partition, { offset: next, until, max: 1000, key });
      some = some.concat(page.records).slice(-most);
      if (page.next_offset <= next) break;
      next = page.next_offset;
    }
    records = some.concat(records).slice(-most);
    until = from;
    step = Math.min(step * 4, 100_000);
  }
  return records.map((one) => ({ partition, ...one }));
}

async function show(from) {
  const mine = ++turn;
  $("live").checked = false;
  $("count").textContent = "Looking…";
  try {
    const numbers = partitions();
    const most = numbers.length === 1 ? PAGE : Math.max(5, Math.ceil(ROWS / numbers.length / 5));
    let records = [];
    for (const number of numbers) {
      records = records.concat(await found(number, from, most, mine));
      if (mine !== turn) return;
    }
    failure($("failure"), null);
    put(records);
  } catch (error) {
    if (mine !== turn) return;
    $("count").textContent = "";
    failure($("failure"), error);
  }
}

function put(records) {
  const several = $("partition").value === ALL;
  const order = several ? (a, b) => b.timestamp_ms - a.timestamp_ms || b.partition - a.partition || b.offset - a.offset : (a, b) => b.offset - a.offset;
  shown = records.sort(order).slice(0, ROWS);
  table();
}

// What comes while one looks. Another question, or leaving the box, ends it.
async function once() {
  if (!$("live").checked) {
    await ask(`${path}/partitions?limit=1`);
    return;
  }
  const mine = turn;
  const key = $("key").value === "" ? undefined : $("key").value;
  let records = [];
  for (const partition of partitions()) {
    const from = ends.get(partition);
    try {
      const page = await read(partition, from === undefined ? {} : { offset: from, max: 100, key });
      ends.set(partition, page.next_offset);
      records = records.concat(page.records.map((one) => ({ partition, ...one })));
    } catch (error) {
      if (error.status !== 416) throw error;
      ends.delete(partition); // what came was deleted before it was read
    }
    if (mine !== turn || !$("live").checked) return;
  }
  if (records.length > 0) put(records.concat(shown));
}

// Showing

function table() {
  // A step is from one partition's offsets to the next ones.
  for (const which of ["older", "newer"]) $(which).disabled = edge(which) === null;
  const body = $("messages");
  const rows = shown.map((one) => {
    const known = one.row;
    if (known) return known;
    const row = made("tr");
    const head = made("th");
    head.scope = "row";
    const open = Object.assign(made("button", format.whole(one.offset), "row"), { type: "button" });
    open.addEventListener("click", () => choose(one, true));
    head.append(open);
    row.append(head, made("td", String(one.partition), "n"), made("td", format.moment(one.timestamp_ms)), made("td", brief(one.key), "text"), made("td", brief(one.value), "text value"));
    one.row = row;
    return row;
  });
  body.replaceChildren(...rows);
  const keyed = $("key").value === "" ? "" : " with this key";
  $("count").textContent = shown.length === 0 ? `There are no messages${keyed} here.` : `${format.plural(shown.length, "message")}${keyed}, the newest first.`;
}

function brief(data) {
  if (data === null) return "∅";
  const text = typeof data === "string" ? data : hex(bytesOf(data), 32);
  return text.length > SHOWN_CHARS ? `${text.slice(0, SHOWN_CHARS)}…` : text;
}

function bytesOf(data) {
  if (data === null) return new Uint8Array();
  return typeof data === "string" ? new TextEncoder().encode(data) : Uint8Array.from(atob(data.base64), (c) => c.charCodeAt(0));
}

function hex(bytes, most) {
  const lines = [];
  const all = bytes.subarray(0, most);
  for (let at = 0; at < all.length; at += 16) {
    const row = [...all.subarray(at, at + 16)];
    const text = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47)}  ${text}`);
  }
  return lines.join("\n") + (bytes.length > most ? `\n… ${bytes.length - most} more bytes` : "");
}

function whole(data, as) {
  if (data === null) return "∅";
  if (as === "hex") return hex(bytesOf(data), 16_384);
  let text = typeof data === "string" ? data : new TextDecoder().decode(bytesOf(data));
  if (as === "json") {
    try {
      text = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      // no JSON: it is shown as it is
    }
  }
  return text.length > WHOLE_CHARS ? `${text.slice(0, WHOLE_CHARS)}…` : text;
}

function choose(one, goThere) {
  chosen = one;
  const as = $("as").value;
  $("one").hidden = false;
  $("one-heading").textContent = `Message ${one.offset} of partition ${one.partition}`;
  $("one-key").textContent = whole(one.key, as);
  $("one-headers").textContent = one.headers.map((each) => `${each.name}: ${whole(each.value, as)}`).join("\n") || "none";
  $("one-value").textContent = whole(one.value, as);
  if (goThere) $("one-heading").focus();
}

// A new one

async function produce() {
  const headers = $("new-headers").value.split("\n").filter((line) => line.trim() !== "").map((line) => {
    const at = line.indexOf(":");
    return at < 0 ? { name: line.trim(), value: null } : { name: line.slice(0, at).trim(), value: line.slice(at + 1).trim() };
  });
  const record = { key: $("new-key").value === "" ? null : $("new-key").value, value: $("tombstone").checked ? null : $("new-value").value, headers };
  $("new-done").textContent = "";
  try {
    const told = await ask(`${path}/records?${query({ partition: $("new-partition").value })}`, { method: "POST", body: { records: [record] } });
    failure($("new-failure"), null);
    $("new-done").textContent = `Stored at offset ${told.first_offset} of partition ${told.partition}.`;
  } catch (error) {
    failure($("new-failure"), error);
  }
}

// What people choose

function from() {
  const kind = $("from").value;
  if (kind === "offset") return { kind, value: Number($("offset").value) || 0 };
  if (kind === "time") return { kind, value: Math.max(0, Date.parse(`${$("time").value}Z`)) || 0 };
  return { kind };
}

function edge(which) {
  if ($("partition").value === ALL || shown.length === 0) return null;
  return which === "older" ? { kind: "before", value: shown.at(-1).offset } : { kind: "offset", value: shown[0].offset + 1 };
}

async function start() {
  const { total } = await ask(`${path}/partitions?limit=1`);
  const numbers = [...Array(Math.min(total, LISTED)).keys()].map(String);
  const choice = (value, text = value) => Object.assign(made("option", text), { value });
  $("new-partition").replaceChildren(...numbers.map((one) => choice(one)));
  $("partition").replaceChildren(...(total > 1 && total <= PARTITIONS ? [choice(ALL, "All")] : []), ...numbers.map((one) => choice(one)));
  if (numbers.includes(asked.get("partition"))) $("partition").value = asked.get("partition");
  await show(from());
}

$("messages-heading").textContent = `Messages of ${topic}`;
document.title = `Messages of ${topic} - Penstock`;
$("topic-link").replaceWith(link("Topic", "topic.html", { topic }));
$("time").value = new Date(Date.now() - 3_600_000).toISOString().slice(0, 19);
$("from").addEventListener("change", () => {
  $("offset-field").hidden = $("from").value !== "offset";
  $("time-field").hidden = $("from").value !== "time";
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  show(from());
});
for (const which of ["older", "newer"]) $(which).addEventListener("click", () => edge(which) && show(edge(which)));
$("live").addEventListener("change", () => {
  turn += 1;
  ends = new Map();
  watch.periodMs = $("live").checked ? LIVE_MS : IDLE_MS;
  watch.poke();
});
$("as").addEventListener("change", () => chosen && choose(chosen, false));
$("save").addEventListener("click", () => save(`${topic}.jsonl`, shown.map(({ row, ...one }) => `${JSON.stringify(one)}\n`), "application/x-ndjson"));
$("save-one").addEventListener("click", () => save(`${topic}-${chosen.partition}-${chosen.offset}`, [bytesOf(chosen.value)], "application/octet-stream"));
$("new").addEventListener("submit", (event) => {
  event.preventDefault();
  produce();
});
document.addEventListener("token", () => start().catch((error) => failure($("failure"), error)));
themed();
start().catch((error) => failure($("failure"), error));
watch.repeat(once, IDLE_MS);
