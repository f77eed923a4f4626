// One group: how far it is behind, now and in the last hour, who its members are; and moving its offsets, with a preview.

import { Spark } from "./charts.js";
import * as format from "./format.js";
import { $, Watch, ask, failure, made, query, rows, themed } from "./shell.js";

const PERIOD_MS = 2000;
const HISTORY_MS = 10_000;
const SAMPLES = 360;
const EVERY = "";
const NAMES = 3;
const group = new URLSearchParams(location.search).get("group") ?? "";
const path = `groups/${encodeURIComponent(group)}`;

const trend = new Spark($("trend"), { most: SAMPLES });
const oneTrend = new Spark($("one-trend"), { most: SAMPLES });
let historyMs = 0;
let chosen = null;
let previewed = null; // the move that was looked at, and may be made
const watch = new Watch((is) => {
  if (is) $("lag").textContent = "–";
});

async function once() {
  try {
    show(await ask(path));
    failure($("gone"), null);
  } catch (error) {
    if (error.status !== 404) throw error;
    failure($("gone"), error);
    $("lag").textContent = "–";
    return;
  }
  if (Date.now() - historyMs >= HISTORY_MS) {
    historyMs = Date.now();
    await showHistory(trend, $("trend-note"), "");
    if (chosen) await showHistory(oneTrend, $("one-note"), `?${query(chosen)}`);
  }
}

async function showHistory(spark, note, of) {
  const told = await ask(`${path}/history${of}`);
  spark.show(told.lags);
  const known = told.lags.filter((one) => one !== null);
  if (known.length === 0) note.textContent = "Nothing is measured yet, or it is beyond what the gateway remembers.";
  else note.textContent = `Last ${format.span(told.lags.length * told.period_ms)}: between ${format.whole(Math.min(...known))} and ${format.whole(Math.max(...known))}.`;
}

function show(told) {
  $("lag").textContent = format.whole(told.lag);
  $("facts").textContent = `${told.type} group, ${told.state}, epoch ${told.epoch}${told.protocol ? `, ${told.protocol}` : ""}, ${format.plural(told.members_total, "member")}, coordinated by node ${told.coordinator}`;
  // A share group has no place: the records from its start offset on are lent one by one, and settled in any order.
  const isShared = told.type === "share";
  $("offset-name").textContent = isShared ? "Start offset" : "Offset";
  $("lag-name").textContent = isShared ? "records not settled" : "records behind";
  const owners = new Map();
  for (const member of told.members) {
    for (const [topic, numbers] of Object.entries(member.partitions)) {
      for (const place of numbers.map((number) => `${number}/${topic}`)) owners.set(place, [...(owners.get(place) ?? []), member.client_id]);
    }
  }
  rows(
    $("partitions"),
    told.partitions,
    (one) => [
      one.topic,
      null,
      format.whole(one.lag),
      format.whole(one.offset),
      one.end_offset === null ? "–" : format.whole(one.end_offset),
      named(owners.get(`${one.partition}/${one.topic}`)),
    ],
    { 0: "name", 1: "n", 2: "n", 3: "n", 4: "n" },
  );
  told.partitions.forEach((one, n) => {
    const cell = $("partitions").children[n].children[1];
    if (cell.textContent === String(one.partition)) return;
    const button = Object.assign(made("button", String(one.partition), "row"), { type: "button" });
    button.addEventListener("click", () => choose({ topic: cell.parentNode.firstChild.textContent, partition: Number(button.textContent) }));
    cell.replaceChildren(button);
  });
  const left = told.partitions_total - told.partitions.length;
  $("partition-count").textContent = left > 0 ? `and ${format.plural(left, "partition")} that lag less` : "";
  $("no-members").hidden = told.members.length > 0;
  rows(
    $("members"),
    told.members,
    (one) => [one.client_id + (one.instance_id ? ` (${one.instance_id})` : ""), one.host, format.whole(one.count), one.id],
    { 0: "name", 2: "n" },
  );
  topics([...new Set(told.partitions.map((one) => one.topic))].sort());
}

// The partitions of a share group have several members.
function named(clients = []) {
  const names = [...new Set(clients)];
  return names.slice(0, NAMES).join(", ") + (names.length > NAMES ? ` and ${names.length - NAMES} more` : "") || "–";
}

function topics(names) {
  const wanted = [EVERY, ...names];
  if (wanted.join("/") === [...$("topic").options].map((one) => one.value).join("/")) return;
  const before = $("topic").value;
  $("topic").replaceChildren(...wanted.map((one) => Object.assign(made("option", one === EVERY ? "All" : one), { value: one })));
  if (wanted.includes(before)) $("topic").value = before;
}

async function choose(place) {
  chosen = place;
  $("one").hidden = false;
  $("one-heading").textContent = `Partition ${place.partition} of ${place.topic}, last hour`;
  $("one-note").textContent = "";
  await showHistory(oneTrend, $("one-note"), `?${query(place)}`).catch((error) => ($("one-note").textContent = error.message));
}

// Moving

function wanted() {
  const to = $("to").value;
  const move = { to };
  if ($("topic").value !== EVERY) move.topic = $("topic").value;
  if (to === "time") move.value = Date.parse(`${$("time").value}Z`) || 0;
  if (to === "offset" || to === "shift") move.value = Number($("value").value) || 0;
  return move;
}

async function move(body) {
  try {
    const told = await ask(`${path}/offsets`, { method: "POST", body });
    failure($("failure"), null);
    $("preview").hidden = false;
    rows(
      $("moves"),
      told.offsets,
      (one) => [one.topic, String(one.partition), one.before === null ? "–" : format.whole(one.before), format.whole(one.after), format.whole(one.lag)],
      { 0: "name", 1: "n", 2: "n", 3: "n", 4: "n" },
    );
    return told;
  } catch (error) {
    failure($("failure"), error);
    return null;
  }
}

// What is moved is what was looked at: a change of the form takes the permission back.
function forget() {
  previewed = null;
  $("apply").disabled = true;
  $("preview").hidden = true;
  $("done").textContent = "";
  $("time-field").hidden = $("to").value !== "time";
  $("value-field").hidden = !["offset", "shift"].includes($("to").value);
}

$("name").textContent = `Group ${group}`;
document.title = `Group ${group} - Penstock`;
$("time").value = new Date(Date.now() - 3_600_000).toISOString().slice(0, 19);
for (const id of ["topic", "to", "time", "value"]) for (const kind of ["input", "change"]) $(id).addEventListener(kind, forget);
$("move").addEventListener("submit", async (event) => {
  event.preventDefault();
  forget();
  const asked = wanted();
  const told = await move({ ...asked, dry_run: true });
  if (!told) return;
  previewed = asked;
  $("apply").disabled = told.offsets.length === 0;
  $("done").textContent = told.offsets.length === 0 ? "It has no offsets to move." : `This would move ${format.plural(told.offsets.length, "offset")}. Nothing is changed yet.`;
});
$("apply").addEventListener("click", async () => {
  if (!previewed) return;
  const told = await move({ ...previewed, dry_run: false });
  previewed = null;
  $("apply").disabled = true;
  $("done").textContent = told ? `Moved ${format.plural(told.offsets.length, "offset")}.` : "";
  watch.poke();
});
topics([]);
themed();
watch.repeat(once, PERIOD_MS);
