// The map: key space upwards, time to the right, a rectangle for each segment, coloured by what it gets.
//
// Pixels are written into one buffer, row by row: five hundred segments cost a few milliseconds. The map is redrawn when
// time has moved on by a pixel, and not while the page is hidden.

import * as format from "./format.js";

const RAMPS = {
  light: ["#eaf0f5", "#a9cfe0", "#5aa5c2", "#2f7f8f", "#d9a63c", "#d2691e", "#a61c1c"],
  dark: ["#1f2a35", "#1f4a63", "#2a7593", "#3fa39f", "#d9b44a", "#ee8a3c", "#ff5f4f"],
};
const EDGES = { light: "#33424f", dark: "#0b0f13" };
const MARKS = { light: "#000000", dark: "#ffffff" };
const STEPS = 256;
const BEND = 0.6; // low rates get more of the colours than they have of the scale
const SAMPLES_MAX = 1200;
const EDGE_PX = 5;
const LABEL_PX = [26, 15];
const OWNER_PX = [130, 32]; // room for whose it is, where a stream has several owners
const HINT = "Point at a segment, or go from one to the next with the arrow keys.";
const HISTORY_MS = 6 * 3600 * 1000;

export class SegmentMap {
  constructor(canvas, { readout, ramp, rampMax }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.readout = readout;
    this.ramp = ramp;
    this.rampMax = rampMax;
    this.windowMs = 600_000;
    this.offsetMs = 0;
    this.isStopped = false;
    this.clear();
    this.setTheme("light");
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerdown", (event) => this.point(event));
    canvas.addEventListener("pointerleave", () => this.select(null));
    canvas.addEventListener("keydown", (event) => this.keyed(event));
    requestAnimationFrame(() => this.frame());
  }

  clear() {
    this.segments = new Map();
    this.loadedSinceMs = Infinity;
    this.toldMs = 0;
    this.endMs = Infinity;
    this.hottest = 0;
    this.scaling = { policy: "fixed", target_rate: 0 };
    this.selected = null;
    this.cursor = null;
    this.drawnMs = -Infinity;
    this.readout.textContent = HINT;
  }

  // What to ask for: what is new, or all of the window that is not known yet.
  sinceMs() {
    const wanted = Math.floor(this.now() - this.windowMs);
    return this.loadedSinceMs <= wanted + 5_000 ? this.toldMs - 5_000 : wanted;
  }

  // The right edge: for a stream that is sealed, when it was; where nothing more is heard, what was heard last.
  now() {
    return Math.min(this.isStopped ? this.toldMs : Date.now() + this.offsetMs, this.endMs);
  }

  setStopped(is) {
    this.isStopped = is;
    this.drawnMs = -Infinity;
    this.tell();
  }

  // A moment at which the newest segments were active.
  newest() {
    return Math.min(this.toldMs, this.endMs - 1);
  }

  update(told, sinceMs) {
    this.offsetMs = told.time_ms - Date.now();
    this.toldMs = told.time_ms;
    this.endMs = told.sealed_ms ?? Infinity;
    this.scaling = told.scaling;
    const byEvents = told.scaling.policy === "events"; // the load that is compared with the target is of records
    this.loadedSinceMs = Math.min(this.loadedSinceMs, sinceMs);
    for (const one of told.segments) {
      let own = this.segments.get(one.id);
      if (!own) {
        const [low, high] = one.key_range;
        own = { id: one.id, samples: [], liveMs: Infinity, low, high, slots: one.slots, container: one.container, opened: one.opened_ms };
        this.segments.set(one.id, own);
      }
      own.sealed = one.sealed_ms;
      own.node = one.node;
      own.bytes = one.bytes;
      own.rate = one.sealed_ms === null ? one.rate_bytes : 0;
      own.events = one.rate_events;
      own.load = one.sealed_ms === null ? (byEvents ? one.rate_events : one.rate_bytes) : 0;
      const until = one.sealed_ms ?? told.time_ms;
      if (own.samples.length === 0) own.mean = byEvents ? 0 : one.bytes / Math.max(1, (until - own.opened) / 1000);
      if (one.sealed_ms === null) {
        own.liveMs = Math.min(own.liveMs, told.time_ms);
        sample(own, told.time_ms);
      }
    }
    for (const [id, own] of this.segments) {
      if (own.sealed !== null && own.sealed < this.now() - HISTORY_MS) this.segments.delete(id);
    }
    this.scale();
    this.drawnMs = -Infinity;
    if (this.selected) this.tell();
  }

  // What the gateway remembers of the time before this page: it comes before what the page has seen itself.
  remember({ period_ms: period, end_ms: end, segments }) {
    for (const { id, loads } of segments) {
      const own = this.segments.get(id);
      if (!own) continue;
      const past = [end - (loads.length - 1) * period, own.mean]; // up to there nothing but the mean is known
      loads.forEach((load, n) => {
        const from = end - (loads.length - 1 - n) * period; // taken in the period that begins there
        const isOver = load === null && own.sealed !== null && from > own.sealed;
        if (from < own.liveMs && !isOver) past.push(Math.min(from + period, own.liveMs - 1), load ?? 0);
      });
      const seen = own.samples.findIndex((ms, n) => n % 2 === 0 && ms >= own.liveMs);
      own.samples = past.concat(seen < 0 ? [] : own.samples.slice(seen));
    }
    this.scale();
    this.drawnMs = -Infinity;
  }

  // Whose a segment is, in words.
  owner(own) {
    if (own.sealed !== null) return `container ${own.container}`;
    return `container ${own.container}, ${own.node === null ? "served by no node" : `node ${own.node}`}`;
  }

  // How long ago the oldest known segment was opened.
  ageMs() {
    return this.now() - Math.min(...[...this.segments.values()].map((own) => own.opened), this.now());
  }

  active() {
    return [...this.segments.values()].filter((own) => own.sealed === null).sort((a, b) => b.low - a.low);
  }

  visible() {
    const from = this.now() - this.windowMs;
    return [...this.segments.values()].filter((own) => own.sealed === null || own.sealed > from);
  }

  // The upper end of the colours: the load from which a segment splits; of a stream that does not scale, what its
  // hottest segment got in the time shown.
  scale() {
    const { policy, target_rate: target } = this.scaling;
    if (policy !== "fixed" && target > 0) {
      this.hottest = target;
      this.rampMax.textContent = policy === "events" ? `${format.short(target)} records/s: splits` : `${format.bytes(target)}/s: splits`;
      return;
    }
    const from = this.now() - this.windowMs;
    let hottest = 1;
    for (const own of this.visible()) {
      const { samples } = own;
      hottest = Math.max(hottest, own.load, samples.length === 0 || samples[0] > from ? own.mean : 0);
      for (let n = samples.length - 2; n > 0 && samples[n] > from; n -= 2) hottest = Math.max(hottest, samples[n + 1]);
    }
    this.hottest = niceAbove(hottest);
    this.rampMax.textContent = `${format.bytes(this.hottest)}/s`;
  }

  setWindow(seconds) {
    this.windowMs = seconds * 1000;
    this.drawnMs = -Infinity;
  }

  setTheme(theme) {
    this.theme = theme;
    this.colours = lookUp(RAMPS[theme]);
    this.paper = packed(getComputedStyle(document.documentElement).getPropertyValue("--paper").trim() || "#ffffff");
    this.edge = packed(EDGES[theme]);
    const context = this.ramp.getContext("2d");
    for (let x = 0; x < this.ramp.width; x += 1) {
      context.fillStyle = css(this.colours[Math.floor((x / this.ramp.width) ** BEND * (STEPS - 1))]);
      context.fillRect(x, 0, 1, this.ramp.height);
    }
    this.drawnMs = -Infinity;
  }

  resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (width === this.canvas.width && height === this.canvas.height && this.image) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.ratio = ratio;
    this.image = this.context.createImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.row = new Uint32Array(width);
    this.drawnMs = -Infinity;
    this.draw();
  }

  frame() {
    requestAnimationFrame(() => this.frame());
    if (document.hidden || !this.image) return;
    const pixelMs = this.windowMs / this.canvas.width;
    if (this.now() - this.drawnMs >= Math.max(pixelMs, 50)) this.draw();
  }

  draw() {
    const { width, height } = this.canvas;
    const now = this.now();
    const from = now - this.windowMs;
    const x = (ms) => Math.max(0, Math.min(width, Math.round(((ms - from) / this.windowMs) * width)));
    const labels = [];
    this.pixels.fill(this.paper);
    for (const own of this.segments.values()) {
      const [left, right] = [x(own.opened), x(own.sealed ?? now)];
      if (right <= left) continue;
      const top = Math.floor((1 - own.high) * height);
      const bottom = Math.max(top + 1, Math.floor((1 - own.low) * height));
      this.colourRow(own, left, right, x);
      for (let y = top; y < bottom; y += 1) this.pixels.set(this.row.subarray(left, right), y * width + left);
      if (bottom - top >= EDGE_PX) {
        if (top > 0) this.pixels.fill(this.edge, top * width + left, top * width + right);
        if (own.opened > from) for (let y = top; y < bottom; y += 1) this.pixels[y * width + left] = this.edge;
      }
      labels.push([own, left, top, right, bottom]);
    }
    this.context.putImageData(this.image, 0, 0);
    this.context.font = `${11 * this.ratio}px system-ui, sans-serif`;
    this.context.textBaseline = "top";
    const isShared = new Set([...this.segments.values()].map((own) => own.container)).size > 1;
    for (const [own, left, top, right, bottom] of labels) {
      if (right - left >= LABEL_PX[0] * this.ratio && bottom - top >= LABEL_PX[1] * this.ratio) {
        this.context.fillStyle = readableOn(this.pixels[(top + 2) * width + Math.min(width - 1, left + 4)]);
        this.context.fillText(String(own.id), left + 4 * this.ratio, top + 3 * this.ratio, right - left - 6);
        const hasRoom = right - left >= OWNER_PX[0] * this.ratio && bottom - top >= OWNER_PX[1] * this.ratio;
        if (isShared && hasRoom) this.context.fillText(this.owner(own), left + 4 * this.ratio, top + 17 * this.ratio, right - left - 6);
      }
    }
    this.mark(x);
    this.drawnMs = now;
  }

  // The colours of a segment along time, into `row`.
  colourRow(own, left, right, x) {
    const { samples } = own;
    let at = left;
    let rate = own.mean;
    for (let n = 0; n < samples.length && at < right; n += 2) {
      const next = Math.min(right, x(samples[n]));
      if (next > at) {
        this.row.fill(this.colour(n === 0 ? rate : samples[n + 1]), at, next);
        at = next;
      }
      rate = samples[n + 1];
    }
    if (at < right) this.row.fill(this.colour(rate), at, right);
  }

  colour(rate) {
    const share = this.hottest > 0 ? Math.min(1, Math.max(0, rate / this.hottest)) : 0;
    return this.colours[Math.floor(share ** BEND * (STEPS - 1))];
  }

  mark(x) {
    const own = this.selected;
    if (!own) return;
    const { height } = this.canvas;
    const top = (1 - own.high) * height;
    this.context.strokeStyle = MARKS[this.theme];
    this.context.lineWidth = 2 * this.ratio;
    const left = x(own.opened);
    this.context.strokeRect(left + 1, top + 1, Math.max(2, x(own.sealed ?? this.now()) - left - 2), Math.max(2, (own.high - own.low) * height - 2));
  }

  // Pointing and moving

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const ms = this.now() - this.windowMs * (1 - (event.clientX - box.left) / box.width);
    this.select(this.at(ms, 1 - (event.clientY - box.top) / box.height), ms);
  }

  at(ms, point) {
    const inside = Math.min(Math.max(point, 0), 1 - 1e-9);
    return [...this.segments.values()].find((own) => own.low <= inside && inside < own.high && own.opened <= ms && ms < (own.sealed ?? Infinity)) ?? null;
  }

  keyed(event) {
    if (!["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") return this.select(null);
    const own = this.selected;
    if (!own || event.key === "End") return this.select(this.at(this.newest(), own ? (own.low + own.high) / 2 : 1));
    const middle = (own.low + own.high) / 2;
    const from = this.now() - this.windowMs;
    const ms = Math.min(Math.max(this.cursor ?? this.toldMs, own.opened, from), (own.sealed ?? Infinity) - 1, this.newest());
    const next = {
      ArrowUp: () => own.high < 1 && this.at(ms, own.high + 1e-9),
      ArrowDown: () => own.low > 0 && this.at(ms, own.low - 1e-9),
      ArrowLeft: () => own.opened > from && this.at(own.opened - 1, middle),
      ArrowRight: () => own.sealed !== null && this.at(own.sealed, middle),
      Home: () => this.at(Math.max(from, this.loadedSinceMs), middle),
    }[event.key]();
    if (next) this.select(next, ["ArrowUp", "ArrowDown"].includes(event.key) ? ms : next.sealed === null ? this.newest() : next.sealed - 1);
  }

  select(own, ms = null) {
    const changed = own !== this.selected;
    this.selected = own;
    this.cursor = ms;
    if (!changed) return;
    this.tell();
    if (this.image) this.draw();
  }

  tell() {
    const own = this.selected;
    if (!own) {
      this.readout.textContent = HINT;
      return;
    }
    const life = own.sealed === null ? `active since ${format.time(own.opened)}` : `${format.time(own.opened)} to ${format.time(own.sealed)}`;
    const rate = own.sealed === null && !this.isStopped ? `${format.bytes(own.rate)}/s, ${format.short(own.events)} records/s, ` : "";
    this.readout.textContent = `Segment ${own.id}: keys ${format.key(own.low)} to ${format.key(own.high)}, ${format.plural(own.slots, "slot")}, ${this.owner(own)}, ${life}, ${rate}${format.bytes(own.bytes)} in all`;
  }
}

// Samples are [time, rate, time, rate, …]: each rate counts for the time before it. Old ones get coarser.
function sample(own, ms) {
  const { samples } = own;
  samples.push(ms, own.load);
  if (samples.length <= 2 * SAMPLES_MAX) return;
  const kept = [];
  for (let n = 0; n < SAMPLES_MAX; n += 4) kept.push(samples[n + 2], Math.max(samples[n + 1], samples[n + 3]));
  own.samples = kept.concat(samples.slice(SAMPLES_MAX));
}

function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

function lookUp(stops) {
  const parts = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: STEPS }, (_, n) => {
    const place = (n / (STEPS - 1)) * (parts.length - 1);
    const low = Math.min(Math.floor(place), parts.length - 2);
    const [r, g, b] = parts[low].map((from, c) => Math.round(from + (parts[low + 1][c] - from) * (place - low)));
    return pack(r, g, b);
  });
}

function packed(hex) {
  return pack(...[1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
}

// As the bytes of an image lie in memory: every machine with a browser is little-endian.
function pack(r, g, b) {
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

function css(pixel) {
  return `rgb(${pixel & 255} ${(pixel >> 8) & 255} ${(pixel >> 16) & 255})`;
}

function readableOn(pixel) {
  const light = 0.299 * (pixel & 255) + 0.587 * ((pixel >> 8) & 255) + 0.114 * ((pixel >> 16) & 255);
  return light > 140 ? "#000000" : "#ffffff";
}
