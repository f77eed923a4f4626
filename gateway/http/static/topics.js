// All topics: sizes, rates, retention, the groups that read them.

import * as format from "./format.js";
import { list } from "./list.js";

function retention(one) {
  const parts = [];
  if (one.retention_ms >= 0) parts.push(format.span(one.retention_ms));
  if (one.retention_bytes >= 0) parts.push(format.bytes(one.retention_bytes));
  if (one.compacted) parts.push("compacted");
  return parts.join(", ") || "for ever";
}

list({
  name: "topics",
  one: "topic",
  columns: [
    ["name", "Topic", false],
    ["partitions", "Partitions", true],
    ["segments", "Segments", true],
    ["bytes", "Size", true],
    ["rate_bytes", "In, bytes/s", true],
    ["rate_events", "In, records/s", true],
    ["retention_ms", "Retention", true],
    ["groups", "Groups", true],
  ],
  cells: (one) => [
    [one.name, "topic.html", { topic: one.name }],
    format.whole(one.partitions),
    one.state === "sealed" ? "sealed" : format.whole(one.segments),
    format.bytes(one.bytes),
    format.bytes(one.rate_bytes),
    format.short(one.rate_events),
    retention(one),
    format.whole(one.groups),
  ],
  rates: [4, 5],
});
