// A line of the last values, without axes: the number beside it says how much.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 32;

export class Spark {
  constructor(place, { area = true, most = 60 } = {}) {
    this.values = [];
    this.most = most;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    this.area = area ? svg.appendChild(document.createElementNS(SVG, "path")) : null;
    this.area?.classList.add("area");
    this.line = svg.appendChild(document.createElementNS(SVG, "path"));
    place.append(svg);
  }

  // All values at once; null where nothing is known: the line passes over it.
  show(values) {
    this.values = values.filter((value) => value !== null).slice(-this.most);
    this.draw();
  }

  push(value) {
    this.values.push(value);
    if (this.values.length > this.most) this.values.shift();
    this.draw();
  }

  draw() {
    if (this.values.length < 2) {
      this.line.removeAttribute("d");
      this.area?.removeAttribute("d");
      return;
    }
    const top = Math.max(...this.values, 1e-9);
    const step = WIDTH / (this.most - 1);
    const from = WIDTH - step * (this.values.length - 1);
    const points = this.values.map((v, n) => `${(from + n * step).toFixed(1)} ${(HEIGHT - 1 - (HEIGHT - 3) * (v / top)).toFixed(1)}`);
    this.line.setAttribute("d", `M${points.join("L")}`);
    this.area?.setAttribute("d", `M${from.toFixed(1)} ${HEIGHT}L${points.join("L")}L${WIDTH} ${HEIGHT}Z`);
  }
}
