// Behaviour that HTML cannot express: relative times, confirmation dialogs, and the grid of nodes.
"use strict";

const STATES = {
  ".": ["waiting", "--wait"], a: ["being warmed", "--work"], s: ["warm", "--warm"], w: ["already warm", "--already"],
  f: ["failed", "--bad"], k: ["skipped", "--skip"],
  1: ["waiting for a retry", "--hold"], 2: ["waiting for a retry", "--hold"], 3: ["waiting for a retry", "--hold"],
  4: ["waiting for a retry", "--hold"], 5: ["waiting for a retry", "--hold"],
};
const state = (letter) => STATES[letter] || STATES["."];

// Formats a duration as kubectl and the server do, as in 45s, 5m, 3h12m and 2d4h.
function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const [m, h, d] = [60, 3600, 86400].map((unit) => Math.floor(s / unit));
  const two = (text, minor, unit) => (minor === 0 ? text : `${text}${minor}${unit}`);
  if (s < 120) return `${s}s`;
  if (m < 10) return two(`${m}m`, s % 60, "s");
  if (h < 3) return `${m}m`;
  if (h < 8) return two(`${h}h`, m % 60, "m");
  if (h < 48) return `${h}h`;
  if (d < 8) return two(`${d}d`, h % 24, "h");
  return `${d}d`;
}

function updateTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const time = Date.parse(element.dateTime);
    if (Number.isNaN(time)) continue;
    const left = (time - Date.now()) / 1000;
    element.textContent = left > 0 ? `in ${span(left)}` : `${span(-left)} ago`;
    element.title = new Date(time).toLocaleString();
  }
}

class Grid {
  constructor(canvas) {
    this.canvas = canvas;
    this.names = [];
    this.letters = "";
    this.cursor = -1;
    this.loading = false;
    this.output = document.getElementById("grid-node");
    this.source = document.getElementById("states");
    new ResizeObserver(() => this.paint()).observe(canvas.parentElement);
    new MutationObserver(() => this.setStates(this.source.textContent.trim())).observe(this.source, { childList: true });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    canvas.addEventListener("pointermove", (event) => this.onPointer(event));
    canvas.addEventListener("pointerdown", (event) => this.onPointer(event));
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    document.getElementById("grid-find")?.addEventListener("input", (event) => this.search(event.target.value));
    this.load();
  }

  async load() {
    if (this.loading) return;
    this.loading = true;
    const before = this.letters;
    const { names, states } = await this.fetchNodes();
    this.loading = false;
    this.names = names;
    // States from the stream that arrived meanwhile are newer, and may refer to a plan that did not exist
    // when the names were requested.
    if (this.letters.length !== names.length) {
      if (this.letters !== before) { this.load(); return; }
      this.letters = states;
    }
    this.show();
  }

  async fetchNodes() {
    const answer = await fetch(this.canvas.dataset.src, { headers: { accept: "application/json" } });
    return answer.ok ? answer.json() : { names: [], states: "" };
  }

  setStates(letters) {
    this.letters = letters;
    if (letters.length !== this.names.length) this.load();
    else this.show();
  }

  show() {
    const any = this.names.length > 0;
    document.getElementById("nodes").hidden = !any;
    if (!any) return;
    const counts = {};
    for (const letter of this.letters) {
      const word = state(letter)[0];
      counts[word] = (counts[word] || 0) + 1;
    }
    const words = Object.entries(counts).map(([word, count]) => `${count} ${word}`).join(", ");
    this.canvas.setAttribute("aria-label", `${this.names.length} nodes: ${words}. Use the arrow keys to move between nodes.`);
    this.paint();
    this.announce();
  }

  layout() {
    const width = Math.max(200, this.canvas.parentElement.clientWidth - 2);
    const size = Math.max(7, Math.min(26, Math.floor(Math.sqrt((width * 380) / Math.max(1, this.names.length)))));
    const columns = Math.max(1, Math.floor(width / size));
    return { size, columns, width, height: Math.ceil(this.names.length / columns) * size };
  }

  paint() {
    if (this.names.length === 0) return;
    performance.mark("grid-begin");
    const { size, columns, width, height } = this.layout();
    const scale = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const colours = {};
    for (const [, name] of Object.values(STATES)) colours[name] ||= style.getPropertyValue(name).trim();
    const gap = size > 10 ? 2 : 1;
    for (let index = 0; index < this.names.length; index += 1) {
      const letter = this.letters[index] || ".";
      const x = (index % columns) * size;
      const y = Math.floor(index / columns) * size;
      pen.fillStyle = colours[state(letter)[1]];
      pen.fillRect(x, y, size - gap, size - gap);
      // Colour is not the only mark: a failed node has a cross, one that is being warmed a dot.
      if (letter === "f" || letter === "a") {
        pen.strokeStyle = pen.fillStyle = colours["--card"] || style.getPropertyValue("--card").trim();
        pen.lineWidth = size > 10 ? 2 : 1;
        const [a, b] = [size * 0.28, size - gap - size * 0.28];
        pen.beginPath();
        if (letter === "f") {
          pen.moveTo(x + a, y + a); pen.lineTo(x + b, y + b); pen.moveTo(x + b, y + a); pen.lineTo(x + a, y + b);
          pen.stroke();
        } else {
          pen.arc(x + (size - gap) / 2, y + (size - gap) / 2, size * 0.14, 0, 7);
          pen.fill();
        }
      }
    }
    if (this.cursor >= 0) {
      pen.strokeStyle = style.getPropertyValue("--text").trim();
      pen.lineWidth = 2;
      pen.strokeRect((this.cursor % columns) * size - 0.5, Math.floor(this.cursor / columns) * size - 0.5, size, size);
    }
    performance.measure("grid", "grid-begin");
  }

  announce() {
    if (!this.output || this.cursor < 0) return;
    const text = `${this.names[this.cursor]}: ${state(this.letters[this.cursor])[0]}`;
    if (this.output.textContent !== text) this.output.textContent = text;
  }

  moveTo(index) {
    if (index < 0 || index >= this.names.length || index === this.cursor) return;
    this.cursor = index;
    this.paint();
    this.announce();
  }

  onPointer(event) {
    const { size, columns } = this.layout();
    const column = Math.floor(event.offsetX / size);
    if (column < columns) this.moveTo(Math.floor(event.offsetY / size) * columns + column);
  }

  onKey(event) {
    const { columns } = this.layout();
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (event.key in steps) this.moveTo(this.cursor < 0 ? 0 : this.cursor + steps[event.key]);
    else if (event.key === "Home") this.moveTo(0);
    else if (event.key === "End") this.moveTo(this.names.length - 1);
    else return;
    event.preventDefault();
  }

  search(text) {
    const query = text.trim().toLowerCase();
    if (query === "") return;
    const index = this.names.findIndex((name) => name.toLowerCase().includes(query));
    if (index < 0) this.output.textContent = "no matching node";
    else { this.cursor = -1; this.moveTo(index); }
  }
}

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// Keeps the open or closed state of <details> elements when their part of the page is updated.
const openStates = new WeakMap();
const summaryText = (details) => details.querySelector("summary").textContent;
document.addEventListener("htmx:sseBeforeMessage", ({ target }) => {
  openStates.set(target, [...target.querySelectorAll("details")].map((details) => [summaryText(details), details.open]));
});
document.addEventListener("htmx:sseMessage", ({ target }) => {
  const before = openStates.get(target) || [];
  [...target.querySelectorAll("details")].forEach((details, index) => {
    if (before[index]?.[0] === summaryText(details)) details.open = before[index][1];
  });
});

const canvas = document.getElementById("grid");
if (canvas) new Grid(canvas);
updateTimes(document);
setInterval(() => updateTimes(document), 5000);
document.addEventListener("htmx:afterSwap", (event) => updateTimes(event.target.parentElement || document));
