// One topic: its map, its partitions, its configuration (which can be changed here), the groups that read it.

import * as format from "./format.js";
import { $, Watch, ask, failure, link, made, query, rows, themed } from "./shell.js";
import { StreamMap } from "./stream-map.js";

const PERIOD_MS = 2000;
const PAGE = 100;
const GROUPS = 100;
const topic = new URLSearchParams(location.search).get("topic") ?? "";
const path = `topics/${encodeURIComponent(topic)}`;
let first = 0;
let total = 0;
let configs = [];

const map = new StreamMap(() => failure($("gone"), { message: "There is no such topic." }));
const watch = new Watch((is) => map.setStale(is));

async function once() {
  await map.ask();
  const [partitions, groups] = await Promise.all([
    ask(`${path}/partitions?${query({ offset: first, limit: PAGE })}`),
    ask(`groups?${query({ topic, limit: GROUPS })}`),
  ]);
  failure($("gone"), null);
  showPartitions(partitions);
  showGroups(groups);
}

function showPartitions(told) {
  total = told.total;
  const known = (value, how = format.whole) => (value === null ? "–" : how(value));
  rows(
    $("partitions"),
    told.partitions,
    (one) => [
      [String(one.partition), "messages.html", { topic, partition: one.partition }],
      known(one.segment, String),
      known(one.start_offset),
      known(one.end_offset),
      known(one.stable_offset),
      known(one.bytes, format.bytes),
      known(one.chunk_bytes, format.bytes),
    ],
    { 1: "n", 2: "n", 3: "n", 4: "n", 5: "n", 6: "n" },
  );
  $("previous").disabled = first === 0;
  $("next").disabled = first + PAGE >= total;
  const count = `${told.partitions.length} of ${format.plural(total, "partition")}`;
  if ($("partition-count").textContent !== count) $("partition-count").textContent = count;
}

function showGroups(told) {
  $("no-readers").hidden = told.groups.length > 0;
  rows(
    $("readers"),
    told.groups,
    (one) => {
      const here = one.topics.find((each) => each.topic === topic);
      return [[one.name, "group.html", { group: one.name }], format.whole(here?.lag ?? 0), format.whole(here?.partitions ?? 0), one.state];
    },
    { 0: "name", 1: "n", 2: "n" },
  );
}

// Configuration

async function loadConfigs() {
  configs = (await ask(`${path}/configs`)).configs;
  $("config-names").replaceChildren(...configs.map((one) => Object.assign(made("option"), { value: one.name })));
  showConfigs();
}

function showConfigs() {
  const shown = configs.filter((one) => $("which").value === "all" || one.source === "topic");
  rows($("configs"), shown, (one) => [null, `${one.value}${meaning(one)}`, one.source]);
  shown.forEach((one, n) => {
    const cell = $("configs").children[n].firstChild;
    if (cell.textContent === one.name) return;
    const button = Object.assign(made("button", one.name, "row"), { type: "button" });
    button.addEventListener("click", () => choose(button.textContent));
    cell.replaceChildren(button);
  });
  $("no-configs").hidden = shown.length > 0;
}

// What a number says, where its name tells the unit.
function meaning(one) {
  const value = Number(one.value);
  if (!(value >= 1000)) return "";
  if (one.name.endsWith(".ms")) return value < 1e15 ? ` (${format.span(value)})` : "";
  return one.name.endsWith("bytes") && value < 1e18 ? ` (${format.bytes(value)})` : "";
}

function choose(name) {
  const one = configs.find((each) => each.name === name);
  $("config-doc").textContent = one ? `${one.doc} Inherited: ${one.inherited || "(empty)"}.` : "";
  $("config-done").textContent = "";
  if (!one) return;
  $("config-name").value = name;
  $("config-value").value = one.value ?? "";
}

async function change(body) {
  $("config-done").textContent = "";
  try {
    configs = (await ask(`${path}/configs`, { method: "PATCH", body })).configs;
    failure($("config-failure"), null);
    $("config-done").textContent = "Changed.";
    showConfigs();
  } catch (error) {
    failure($("config-failure"), error);
  }
}

$("name").textContent = topic;
document.title = `${topic} - Penstock`;
$("messages").replaceWith(link("Messages", "messages.html", { topic }));
map.choose(topic);
$("which").addEventListener("change", showConfigs);
$("config-name").addEventListener("change", () => choose($("config-name").value.trim()));
$("change").addEventListener("submit", (event) => {
  event.preventDefault();
  change({ set: { [$("config-name").value.trim()]: $("config-value").value } });
});
$("reset").addEventListener("click", () => $("config-name").reportValidity() && change({ reset: [$("config-name").value.trim()] }));
$("previous").addEventListener("click", () => {
  first = Math.max(0, first - PAGE);
  watch.poke();
});
$("next").addEventListener("click", () => {
  first += PAGE;
  watch.poke();
});
loadConfigs().catch((error) => failure($("config-failure"), error));
themed((theme) => map.setTheme(theme));
watch.repeat(once, PERIOD_MS);
