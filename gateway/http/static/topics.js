// The list of topics: a page of it at a time, searched, sorted and cut by the gateway.

import * as format from "./format.js";
import { $, Watch, ask, made, query, rows, themed } from "./shell.js";

const PERIOD_MS = 2000;
const PAGE = 50;
const SEARCH_MS = 200; // a pause in typing
const COLUMNS = [
  ["name", "Topic", false],
  ["partitions", "Partitions", true],
  ["segments", "Segments", true],
  ["bytes", "Size", true],
  ["rate_bytes", "In, bytes/s", true],
  ["rate_events", "In, records/s", true],
  ["retention_ms", "Retention", true],
  ["groups", "Groups", true],
];
const NUMBERS = Object.fromEntries(COLUMNS.map(([, , isNumber], at) => [at, isNumber ? "n" : "name"]));

const asked = new URLSearchParams(location.search);
const state = { search: asked.get("search") ?? "", sort: asked.get("sort") ?? "name", page: Math.max(0, Number(asked.get("page")) || 0) };
let found = 0;
const watch = new Watch((stopped) => stopped && blur());

async function once() {
  const { search, sort, page } = state;
  const told = await ask(`topics?${query({ search, sort, offset: page * PAGE, limit: PAGE })}`);
  if (search !== state.search || sort !== state.sort || page !== state.page) return;
  if (told.topics.length === 0 && page > 0 && told.found <= page * PAGE) return go({ page: Math.max(0, Math.ceil(told.found / PAGE) - 1) });
  show(told);
}

function show(told) {
  found = told.found;
  rows(
    $("topics"),
    told.topics,
    (one) => [
      [one.name, "topic.html", { topic: one.name }],
      format.whole(one.partitions),
      one.state === "sealed" ? "sealed" : format.whole(one.segments),
      format.bytes(one.bytes),
      format.bytes(one.rate_bytes),
      format.short(one.rate_events),
      retention(one),
      format.whole(one.groups),
    ],
    NUMBERS,
  );
  $("none").hidden = told.found > 0;
  $("truncated").hidden = !told.truncated;
  const first = told.topics.length > 0 ? state.page * PAGE + 1 : 0;
  const all = told.found === told.total ? "" : ` (${format.plural(told.total, "topic")} in all)`;
  const count = `${format.whole(first)} to ${format.whole(first + told.topics.length - (first ? 1 : 0))} of ${format.whole(told.found)}${all}`;
  if ($("count").textContent !== count) $("count").textContent = count;
  $("previous").disabled = state.page === 0;
  $("next").disabled = (state.page + 1) * PAGE >= found;
}

function retention(one) {
  const parts = [];
  if (one.retention_ms >= 0) parts.push(format.span(one.retention_ms));
  if (one.retention_bytes >= 0) parts.push(format.bytes(one.retention_bytes));
  if (one.compacted) parts.push("compacted");
  return parts.join(", ") || "for ever";
}

// Rates are of now, or they are nothing.
function blur() {
  for (const cell of document.querySelectorAll("#topics td:nth-child(5), #topics td:nth-child(6)")) cell.textContent = "–";
}

function go(change) {
  Object.assign(state, change);
  const told = query({ search: state.search, sort: state.sort === "name" ? "" : state.sort, page: state.page || "" });
  history.replaceState(null, "", told ? `?${told}` : location.pathname);
  heads();
  watch.poke();
}

function heads() {
  const order = state.sort.replace(/^-/, "");
  for (const head of $("columns").children) {
    const isIt = head.dataset.order === order;
    if (isIt) head.ariaSort = state.sort === order ? "ascending" : "descending";
    else head.removeAttribute("aria-sort");
  }
}

$("columns").append(
  ...COLUMNS.map(([order, name, isNumber]) => {
    const head = made("th", "", isNumber ? "n" : "");
    head.scope = "col";
    head.dataset.order = order;
    const button = Object.assign(made("button", name, "sort"), { type: "button" });
    // What is largest is what one looks for first; names begin with A.
    button.addEventListener("click", () => {
      const first = isNumber ? `-${order}` : order;
      go({ sort: state.sort === first ? (isNumber ? order : `-${order}`) : first, page: 0 });
    });
    head.append(button);
    return head;
  }),
);
let typing = null;
$("search").value = state.search;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => go({ search: $("search").value.trim(), page: 0 }), SEARCH_MS);
});
$("previous").addEventListener("click", () => go({ page: Math.max(0, state.page - 1) }));
$("next").addEventListener("click", () => go({ page: state.page + 1 }));
heads();
themed();
watch.repeat(once, PERIOD_MS);
