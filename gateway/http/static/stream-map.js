// One stream's map on a page: asks for its segments, and shows the map, the axis below it and its alternative as a table.

import * as format from "./format.js";
import { SegmentMap } from "./map.js";
import { $, ask, made, rows } from "./shell.js";

const TABLE_ROWS = 500;
const YOUNG_MS = 120_000; // a stream of less than that is shown closer
const NUMBERS = { 2: "n", 5: "n", 6: "n", 7: "n" };

export class StreamMap {
  // `gone` is called when there is no such stream any more.
  constructor(gone) {
    this.map = new SegmentMap($("map"), { readout: $("readout"), ramp: $("ramp"), rampMax: $("ramp-max") });
    this.gone = gone;
    this.stream = null;
    this.stale = false;
    this.heardMs = 0;
    this.hasChosenWindow = false;
    $("window").addEventListener("change", () => {
      this.hasChosenWindow = true;
      this.axis();
      this.ask().catch(() => {});
    });
    $("table-box").addEventListener("toggle", () => this.table());
    this.axis();
  }

  choose(name) {
    this.stream = name;
    this.map.clear();
  }

  async ask() {
    if (this.stream === null) return this.showNone();
    const asked = this.stream;
    const since = Math.max(0, this.map.sinceMs());
    const path = `streams/${encodeURIComponent(asked)}`;
    const isPast = since < this.map.loadedSinceMs; // time from before this page: the gateway remembers its colours
    try {
      const [told, heat] = await Promise.all([ask(`${path}/map?since_ms=${since}`), isPast ? ask(`${path}/heat?since_ms=${since}`) : null]);
      this.heardMs = Date.now();
      if (asked !== this.stream) return;
      this.show(told, since);
      if (heat) this.map.remember(heat);
    } catch (error) {
      if (error.status !== 404) throw error; // deleted a moment ago, or a name that never was
      this.gone();
    }
  }

  showNone() {
    $("segment-count").textContent = "–";
    $("segment-note").textContent = "no stream yet";
    $("readout").textContent = "There is no stream yet. Produce a record, and its topic appears here.";
    $("map").setAttribute("aria-label", "There is no stream yet");
    $("limits").hidden = true;
    $("segments").replaceChildren();
  }

  show(told, since) {
    const { map } = this;
    map.update(told, since);
    if (!this.hasChosenWindow && told.segments.length > 0) {
      if (map.ageMs() < YOUNG_MS) this.pick(YOUNG_MS);
      this.hasChosenWindow = true;
    }
    if ($("axis-x").lastChild.textContent !== this.right()) this.axis();
    const active = map.active();
    $("segment-count").textContent = told.state === "sealed" ? "sealed" : format.whole(active.length);
    $("segment-note").textContent = `epoch ${told.epoch}, ${format.plural(told.slots, "slot")}, scaling: ${told.scaling.policy}`;
    const visible = map.visible().length;
    const label = `Stream ${told.name}: ${format.plural(active.length, "active segment")}, ${format.plural(visible, "segment")} in the time shown`;
    if ($("map").getAttribute("aria-label") !== label) $("map").setAttribute("aria-label", label);
    const notices = [...told.limits];
    if (told.sealed_ms !== null) notices.push(`Sealed at ${format.time(told.sealed_ms)}: this stream can be read, and takes no more records.`);
    if (told.truncated) notices.push("There were more segments than can be shown: the oldest are left out.");
    $("limits").hidden = notices.length === 0;
    $("limits").textContent = notices.join(" ");
    this.table();
  }

  table() {
    if (!$("table-box").open) return;
    rows(
      $("segments"),
      this.map.active().slice(0, TABLE_ROWS),
      (own) => [
        String(own.id),
        `${format.key(own.low)} to ${format.key(own.high)}`,
        format.whole(own.slots),
        this.map.owner(own),
        format.time(own.opened),
        this.stale ? "–" : format.bytes(own.rate),
        this.stale ? "–" : format.short(own.events),
        format.bytes(own.bytes),
      ],
      NUMBERS,
    );
  }

  setStale(is) {
    if (is) $("segment-count").textContent = "–";
    if (is === this.stale) return;
    this.stale = is;
    this.map.setStopped(is);
    this.axis();
    this.table();
  }

  setTheme(theme) {
    this.map.setTheme(theme);
  }

  right() {
    if (this.map.endMs !== Infinity) return "sealed";
    return this.stale ? format.time(this.heardMs) : "now";
  }

  axis() {
    const seconds = Number(document.querySelector("#window input:checked").value);
    const unit = seconds >= 7200 ? [3600, "h"] : seconds > 120 ? [60, "min"] : [1, "s"];
    const ticks = [0, 0.25, 0.5, 0.75].map((part) => [part, `−${+((seconds * (1 - part)) / unit[0]).toFixed(1)} ${unit[1]}`]);
    $("axis-x").replaceChildren(
      ...[...ticks, [1, this.right()]].map(([part, text]) => {
        const tick = made("span", text);
        tick.style.left = `${100 * part}%`;
        if (part === 0) tick.style.transform = "none";
        if (part === 1) tick.style.transform = "translateX(-100%)";
        return tick;
      }),
    );
    this.map.setWindow(seconds);
  }

  pick(ms) {
    document.querySelector(`#window input[value="${ms / 1000}"]`).checked = true;
    this.axis();
  }
}
