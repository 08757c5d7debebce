// What HTML cannot say: times that grow older, questions before what cannot be undone, and the grid of nodes.
"use strict";

const STATES = {
  ".": ["waiting", "--wait"], a: ["being warmed", "--work"], s: ["warm", "--warm"], w: ["already warm", "--already"],
  f: ["failed", "--bad"], k: ["skipped", "--skip"],
  1: ["to be tried again", "--hold"], 2: ["to be tried again", "--hold"], 3: ["to be tried again", "--hold"],
  4: ["to be tried again", "--hold"], 5: ["to be tried again", "--hold"],
};
const state = (letter) => STATES[letter] || STATES["."];

function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}

function tellTimes(root) {
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
    this.told = document.getElementById("grid-node");
    this.source = document.getElementById("states");
    new ResizeObserver(() => this.paint()).observe(canvas.parentElement);
    new MutationObserver(() => this.take(this.source.textContent.trim())).observe(this.source, { childList: true });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerdown", (event) => this.point(event));
    canvas.addEventListener("keydown", (event) => this.key(event));
    document.getElementById("grid-find")?.addEventListener("input", (event) => this.find(event.target.value));
    this.load();
  }

  async load() {
    if (this.loading) return;
    this.loading = true;
    const before = this.letters;
    const { names, states } = await this.ask();
    this.loading = false;
    this.names = names;
    // What came by the stream meanwhile is newer, and may be about nodes that were not chosen yet.
    if (this.letters.length !== names.length) {
      if (this.letters !== before) { this.load(); return; }
      this.letters = states;
    }
    this.show();
  }

  async ask() {
    const answer = await fetch(this.canvas.dataset.src, { headers: { accept: "application/json" } });
    return answer.ok ? answer.json() : { names: [], states: "" };
  }

  take(letters) {
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
    this.canvas.setAttribute("aria-label", `${this.names.length} nodes: ${words}. Arrow keys go from node to node.`);
    this.paint();
    this.tell();
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
      // Colour is not all: a failed node carries a cross, one at work a dot.
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

  tell() {
    if (!this.told || this.cursor < 0) return;
    const text = `${this.names[this.cursor]}: ${state(this.letters[this.cursor])[0]}`;
    if (this.told.textContent !== text) this.told.textContent = text;
  }

  go(index) {
    if (index < 0 || index >= this.names.length || index === this.cursor) return;
    this.cursor = index;
    this.paint();
    this.tell();
  }

  point(event) {
    const { size, columns } = this.layout();
    const column = Math.floor(event.offsetX / size);
    if (column < columns) this.go(Math.floor(event.offsetY / size) * columns + column);
  }

  key(event) {
    const { columns } = this.layout();
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (event.key in steps) this.go(this.cursor < 0 ? 0 : this.cursor + steps[event.key]);
    else if (event.key === "Home") this.go(0);
    else if (event.key === "End") this.go(this.names.length - 1);
    else return;
    event.preventDefault();
  }

  find(text) {
    const wanted = text.trim().toLowerCase();
    if (wanted === "") return;
    const index = this.names.findIndex((name) => name.toLowerCase().includes(wanted));
    if (index < 0) this.told.textContent = "no such node";
    else { this.cursor = -1; this.go(index); }
  }
}

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// What somebody has opened or shut stays so when its part of the page is renewed.
const folds = new WeakMap();
const name = (fold) => fold.querySelector("summary").textContent;
document.addEventListener("htmx:sseBeforeMessage", ({ target }) => {
  folds.set(target, [...target.querySelectorAll("details")].map((fold) => [name(fold), fold.open]));
});
document.addEventListener("htmx:sseMessage", ({ target }) => {
  const before = folds.get(target) || [];
  [...target.querySelectorAll("details")].forEach((fold, index) => {
    if (before[index]?.[0] === name(fold)) fold.open = before[index][1];
  });
});

const canvas = document.getElementById("grid");
if (canvas) new Grid(canvas);
tellTimes(document);
setInterval(() => tellTimes(document), 5000);
document.addEventListener("htmx:afterSwap", (event) => tellTimes(event.target.parentElement || document));
