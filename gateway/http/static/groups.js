// All groups, of every kind: who is in them, what they read, how far they are behind.

import * as format from "./format.js";
import { list } from "./list.js";

const TOPICS = 3;

function topics(one) {
  const named = one.topics.slice(0, TOPICS).map((each) => each.topic).join(", ");
  const left = one.topics_total - Math.min(TOPICS, one.topics.length);
  return left > 0 ? `${named} and ${format.whole(left)} more` : named;
}

list({
  name: "groups",
  one: "group",
  columns: [
    ["name", "Group", false],
    ["type", "Kind", false],
    ["state", "State", false],
    ["members", "Members", true],
    ["lag", "Lag", true],
    ["topics", "Topics", true],
    ["coordinator", "Coordinator", true],
  ],
  cells: (one) => [
    [one.name, "group.html", { group: one.name }],
    one.type,
    one.state,
    format.whole(one.members),
    format.whole(one.lag),
    topics(one),
    `node ${one.coordinator}`,
  ],
  sorted: "-lag",
});
