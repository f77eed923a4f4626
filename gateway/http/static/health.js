// How the gateway is: a strip of what matters first, what holds back its logs, its last warnings and scales.

import * as format from "./format.js";
import { $, Watch, ask, made, rows, themed } from "./shell.js";

const PERIOD_MS = 2000;
const LINES = 100;
const LOG_WARNS = 0.8;
const DISK_WARNS = 0.1;
const SNAPSHOT_WARNS_S = 3600;

const watch = new Watch((is) => {
  if (is) for (const cell of document.querySelectorAll("#strip .number")) cell.textContent = "–";
});

async function once() {
  const [health, nodes, warnings, events] = await Promise.all([ask("health"), ask("nodes"), ask(`warnings?limit=${LINES}`), ask(`events?limit=${LINES}`)]);
  showStrip(health);
  showNodes(nodes);
  showLogs(health);
  showLines(warnings);
  showEvents(events);
}

function tile(name, text, note, warns) {
  $(name).textContent = text;
  $(`${name}-note`).textContent = note;
  $(name).parentElement.classList.toggle("warns", warns);
}

function percent(part) {
  return `${(100 * part).toFixed(part < 0.0995 ? 1 : 0)} %`;
}

function fill(log) {
  return log.log_limit_bytes > 0 ? log.log_bytes / log.log_limit_bytes : 0;
}

function showStrip(told) {
  const { logs, disks } = told;
  const fullest = logs.reduce((a, b) => (fill(b) > fill(a) ? b : a), logs[0]);
  if (fullest) {
    const pin = fullest.pins[0];
    const why = pin ? `${format.bytes(pin.bytes)} held by ${pin.topic}-${pin.partition}: ${pin.reason}` : `of ${format.bytes(fullest.log_limit_bytes)}, container ${fullest.container}`;
    tile("log", percent(fill(fullest)), why, fill(fullest) > LOG_WARNS);
  }
  const tiered = logs.filter((one) => one.long_term);
  const failures = tiered.reduce((sum, one) => sum + one.put_failures, 0);
  if (tiered.length === 0) tile("untiered", "–", "there is no long-term storage", false);
  else tile("untiered", format.bytes(tiered.reduce((sum, one) => sum + one.untiered_bytes, 0)), tiered.some((one) => one.storage_full) ? "long-term storage is full" : `${format.plural(failures, "upload")} had to start over`, tiered.some((one) => one.storage_full));
  const oldest = tiered.reduce((most, one) => (one.snapshot_age_s === null ? most : Math.max(most, one.snapshot_age_s)), -1);
  const missed = tiered.reduce((sum, one) => sum + one.snapshot_failures, 0);
  if (oldest < 0) tile("snapshot", "–", tiered.length === 0 ? "there is no long-term storage" : "none since the start", false);
  else tile("snapshot", format.span(Math.round(oldest) * 1000), `ago, the oldest; ${format.plural(missed, "failure")}`, oldest > SNAPSHOT_WARNS_S);
  const failed = told.failed_requests.reduce((sum, one) => sum + one.count, 0);
  tile("failed", format.whole(failed), failed ? told.failed_requests.slice(0, 3).map((one) => `API ${one.api}: ${one.count}`).join(", ") : "since the start", failed > 0);
  const tightest = disks.reduce((a, b) => (b.free_bytes / b.size_bytes < a.free_bytes / a.size_bytes ? b : a), disks[0]);
  if (tightest) tile("disk", format.bytes(tightest.free_bytes), `free of ${format.bytes(tightest.size_bytes)}, ${tightest.path}`, tightest.free_bytes < DISK_WARNS * tightest.size_bytes);
  $("no-concerns").hidden = told.concerns.length > 0;
  if ([...$("concerns").children].map((one) => one.textContent).join("\n") !== told.concerns.join("\n")) $("concerns").replaceChildren(...told.concerns.map((one) => made("li", one)));
}

const SAYS = {
  serving: "",
  "not ready": "",
  draining: "gives its containers away",
  silent: "lives, and has not answered: what is its own is missing on these pages",
};

function ended(one) {
  if (one.state !== "gone" && one.state !== "stopped") return "";
  const when = one.gone_s === null ? "ended, and nobody heard when" : `ended ${format.span(Math.round(one.gone_s) * 1000)} ago`;
  return one.served.length ? `${when}, with ${one.served.length === 1 ? "container" : "containers"} ${one.served.join(", ")}` : when;
}

function showNodes(told) {
  $("nodes-panel").hidden = told.nodes.length < 2 && told.containers.every((one) => one.stage === "serving");
  const nobodys = told.containers.filter((one) => one.stage !== "serving");
  const open = nobodys.length ? `${format.plural(nobodys.length, "container")} served by nobody: ${nobodys.slice(0, LINES).map((one) => one.id).join(", ")}` : "each container is served";
  $("nodes-note").textContent = told.certain ? open : "outdated: the node that answers has lost its lease";
  const gone = told.nodes.some((one) => one.state === "gone");
  $("nodes-panel").classList.toggle("warns", nobodys.length > 0 || gone || !told.certain);
  rows(
    $("nodes"),
    told.nodes,
    (one) => [
      String(one.id),
      one.state,
      told.containers.filter((each) => each.node === one.id).map((each) => `${each.id}${each.stage === "serving" ? "" : ` (${each.stage})`}${each.going_to < 0 ? "" : ` → ${each.going_to}`}`).join(", ") || "–",
      one.connections === null ? "–" : format.whole(one.connections),
      ended(one) || [SAYS[one.state], ...one.concerns].filter(Boolean).join("; "),
    ],
    { 0: "n", 2: "value", 3: "n", 4: "value" },
  );
}

function showLogs(told) {
  rows(
    $("logs"),
    told.logs,
    (one) => [
      String(one.container),
      percent(fill(one)),
      format.bytes(one.log_bytes),
      one.long_term ? format.bytes(one.untiered_bytes) : "–",
      format.bytes(one.held_bytes),
      one.snapshot_age_s === null ? "–" : format.span(Math.round(one.snapshot_age_s) * 1000),
    ],
    { 1: "n", 2: "n", 3: "n", 4: "n", 5: "n" },
  );
  const pins = told.logs.flatMap((one) => one.pins).sort((a, b) => b.bytes - a.bytes).slice(0, LINES);
  $("no-pins").hidden = pins.length > 0;
  rows($("pins"), pins, (one) => [[one.topic, "topic.html", { topic: one.topic }], String(one.partition), format.bytes(one.bytes), one.reason], { 0: "name", 1: "n", 2: "n" });
}

function showLines(told) {
  $("no-warnings").hidden = told.warnings.length > 0;
  $("warning-count").textContent = told.total > told.warnings.length ? `${format.whole(told.total)} since the start` : "";
  rows($("warnings"), told.warnings, (one) => [format.time(one.time_ms), one.level, one.text], { 2: "value" });
}

function showEvents(told) {
  $("no-events").hidden = told.events.length > 0;
  rows($("events"), told.events, (one) => [format.time(one.time_ms), one.kind, [one.stream, "topic.html", { topic: one.stream }], one.reason], { 3: "value" });
}

themed();
watch.repeat(once, PERIOD_MS);
