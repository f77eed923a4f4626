// Numbers and times, for people.

// Sizes are in powers of 1,024, as the command line, the configuration and its documents have them.
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false });

export function bytes(count) {
  let unit = 0;
  while (count >= 1023.5 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 || count >= 99.5 ? Math.round(count) : +count.toPrecision(count >= 9.95 ? 3 : 2)} ${UNITS[unit]}`;
}

export function whole(count) {
  return Math.round(count).toLocaleString("en");
}

export function short(count) {
  if (count < 10_000) return count > 0 && count < 10 ? count.toFixed(1) : whole(count);
  return count < 999_500 ? `${(count / 1e3).toPrecision(3)} k` : `${(count / 1e6).toPrecision(3)} M`;
}

export function time(ms) {
  return (new Date(ms).toDateString() === new Date().toDateString() ? clock : day).format(ms);
}

export function key(point) {
  return point.toFixed(4).replace(/0{1,2}$/, "");
}

export function plural(count, one, many = `${one}s`) {
  return `${whole(count)} ${count === 1 ? one : many}`;
}

const SPANS = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1000, "s"], [1, "ms"]];

// A length of time in its largest unit that tells it exactly enough: "7 d", "36 h", "90 s".
export function span(ms) {
  const [size, name] = SPANS.find(([size]) => ms >= size && (ms % size === 0 || ms >= 20 * size)) ?? SPANS.at(-1);
  return `${+(ms / size).toFixed(1)} ${name}`;
}

export function moment(ms) {
  return ms < 0 ? "–" : new Date(ms).toISOString().replace("T", " ").replace("Z", "");
}
