// A list: a page of it at a time, searched, sorted and cut by the gateway.

import * as format from "./format.js";
import { $, Watch, ask, made, query, rows, themed } from "./shell.js";

const PERIOD_MS = 2000;
const PAGE = 50;
const SEARCH_MS = 200; // a pause in typing

// `name` is the list's in the API and on the page. `columns` have an order of the API, a heading, and whether they are
// numbers; `cells` makes a row's; `rates` are the columns that are of now, or nothing; `sorted` is the order at first.
export function list({ name, one, columns, cells, rates = [], sorted = "name" }) {
  const classes = Object.fromEntries(columns.map(([, , isNumber], at) => [at, isNumber ? "n" : "name"]));
  const asked = new URLSearchParams(location.search);
  const state = { search: asked.get("search") ?? "", sort: asked.get("sort") ?? sorted, page: Math.max(0, Number(asked.get("page")) || 0) };
  const watch = new Watch((stopped) => {
    if (stopped) for (const row of $("rows").children) for (const at of rates) row.children[at].textContent = "–";
  });

  async function once() {
    const { search, sort, page } = state;
    const told = await ask(`${name}?${query({ search, sort, offset: page * PAGE, limit: PAGE })}`);
    if (search !== state.search || sort !== state.sort || page !== state.page) return;
    if (told[name].length === 0 && page > 0 && told.found <= page * PAGE) return go({ page: Math.max(0, Math.ceil(told.found / PAGE) - 1) });
    show(told);
  }

  function show(told) {
    rows($("rows"), told[name], cells, classes);
    $("none").hidden = told.found > 0;
    $("truncated").hidden = !told.truncated;
    const first = told[name].length > 0 ? state.page * PAGE + 1 : 0;
    const all = told.found === told.total ? "" : ` (${format.plural(told.total, one)} in all)`;
    const count = `${format.whole(first)} to ${format.whole(first + told[name].length - (first ? 1 : 0))} of ${format.whole(told.found)}${all}${told.loading ? "; some are being loaded" : ""}`;
    if ($("count").textContent !== count) $("count").textContent = count;
    $("previous").disabled = state.page === 0;
    $("next").disabled = (state.page + 1) * PAGE >= told.found;
  }

  function go(change) {
    Object.assign(state, change);
    const told = query({ search: state.search, sort: state.sort === sorted ? "" : state.sort, page: state.page || "" });
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
    ...columns.map(([order, title, isNumber]) => {
      const head = made("th", "", isNumber ? "n" : "");
      head.scope = "col";
      head.dataset.order = order;
      const button = Object.assign(made("button", title, "sort"), { type: "button" });
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
}
