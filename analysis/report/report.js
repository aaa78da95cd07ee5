"use strict";
// Interactive curves: one SVG panel per task. Data: the JSON that report.py puts into the page.
const DATA = JSON.parse(document.getElementById("data").textContent);
const W = 360, H = 230, LEFT = 42, RIGHT = 10, TOP = 24, BOTTOM = 36;
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

function short(value) {
  for (const [unit, word] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]])
    if (Math.abs(value) >= unit) return +(value / unit).toPrecision(3) + word;
  return String(+value.toPrecision(3));
}

function ticks(low, high, count) {
  const span = (high - low) || 1, rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-9; t += step) found.push(t);
  return found;
}

class Panel {
  constructor(box, suite, task) {
    this.suite = suite;
    this.task = task;
    this.lines = suite.lines.filter((line) => line.task === task);
    this.seeds = suite.seeds.filter((line) => line.task === task);
    this.published = suite.published.filter((line) => line.task === task);
    this.node = document.createElement("div");
    this.node.className = "panel";
    this.node.dataset.task = task;
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    box.appendChild(this.node);
    this.zoom = null;
    this.drag = null;
    this.draw(new Set());
  }

  extent() {
    if (this.zoom) return this.zoom;
    const xs = this.lines.flatMap((line) => line.x);
    if (this.suite.xLabel !== "Environment steps") return [Math.min(...xs), Math.max(...xs)];
    return [0, Math.max(1, ...xs)];
  }

  draw(hidden) {
    this.hidden = hidden;
    const shown = this.lines.filter((line) => !hidden.has(line.method));
    const [x0, x1] = this.extent();
    const ys = [0];
    for (const line of shown)
      line.x.forEach((x, i) => {
        if (x >= x0 && x <= x1)
          for (const y of [line.mean[i], line.low[i], line.high[i]]) if (y !== null) ys.push(y);
      });
    this.published.forEach((line) => ys.push(line.score));
    const y0 = Math.min(...ys), y1 = Math.max(...ys) * 1.04 || 1;
    this.x = (v) => LEFT + (v - x0) / ((x1 - x0) || 1) * (W - LEFT - RIGHT);
    this.y = (v) => H - BOTTOM - (v - y0) / ((y1 - y0) || 1) * (H - TOP - BOTTOM);
    this.back = (px) => x0 + (px - LEFT) / (W - LEFT - RIGHT) * (x1 - x0);
    const svg = element("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" });
    element("title", {}, svg, this.suite.tasks[this.task]);
    element("text", { x: W / 2, y: 14, "text-anchor": "middle", class: "title" }, svg, this.suite.tasks[this.task]);
    this.axes(svg, [x0, x1], [y0, y1]);
    const id = "clip-" + Math.random().toString(36).slice(2);
    const clip = element("clipPath", { id }, element("defs", {}, svg));
    element("rect", { x: LEFT, y: TOP - 6, width: W - LEFT - RIGHT, height: H - TOP - BOTTOM + 6 }, clip);
    this.area = element("g", { "clip-path": `url(#${id})` }, svg);
    for (const line of this.published) {
      const y = this.y(line.score);
      element("line", { x1: LEFT, x2: W - RIGHT, y1: y, y2: y, stroke: line.colour, "stroke-dasharray": "5 3" }, this.area);
      element("text", { x: W - RIGHT - 2, y: y - 3, "text-anchor": "end" }, this.area, line.label);
    }
    this.seeds.filter((line) => !hidden.has(line.method)).forEach((line) => this.seed(line, 0.7, 0.3, this.area));
    shown.forEach((line) => this.line(line));
    this.mark = element("g", {}, svg);
    this.listen(svg);
    this.node.replaceChildren(svg, this.tip);
  }

  axes(svg, [x0, x1], [y0, y1]) {
    for (const t of ticks(y0, y1, 4)) {
      element("line", { x1: LEFT, x2: W - RIGHT, y1: this.y(t), y2: this.y(t), class: "grid" }, svg);
      element("text", { x: LEFT - 5, y: this.y(t) + 4, "text-anchor": "end" }, svg, short(t));
    }
    for (const t of ticks(x0, x1, 4)) {
      element("line", { x1: this.x(t), x2: this.x(t), y1: TOP, y2: H - BOTTOM, class: "grid" }, svg);
      element("text", { x: this.x(t), y: H - BOTTOM + 14, "text-anchor": "middle" }, svg, short(t));
    }
    element("text", { x: (LEFT + W) / 2, y: H - 6, "text-anchor": "middle" }, svg, this.suite.xLabel);
  }

  line(line) {
    const colour = this.suite.methods[line.method].colour;
    let upper = "", lower = "";
    line.x.forEach((x, i) => {
      if (line.low[i] === null) return;
      upper += `${this.x(x)},${this.y(line.high[i])} `;
      lower = `${this.x(x)},${this.y(line.low[i])} ` + lower;
    });
    if (upper) element("polygon", { points: upper + lower, fill: colour, opacity: 0.16 }, this.area);
    // The line is dotted where fewer runs than planned contribute to the mean.
    for (let i = 1; i < line.x.length; i++) {
      if (line.mean[i] === null || line.mean[i - 1] === null) continue;
      const whole = line.n[i] >= line.planned && line.n[i - 1] >= line.planned;
      element("line", {
        x1: this.x(line.x[i - 1]), y1: this.y(line.mean[i - 1]), x2: this.x(line.x[i]), y2: this.y(line.mean[i]),
        stroke: colour, "stroke-width": 2, "stroke-linecap": "round", "stroke-dasharray": whole ? "none" : "1 4",
      }, this.area);
    }
    if (line.x.length === 1 && line.mean[0] !== null)
      element("circle", { cx: this.x(line.x[0]), cy: this.y(line.mean[0]), r: 3, fill: colour }, this.area);
  }

  seed(line, width, opacity, parent) {
    let path = "", pen = "M";
    line.x.forEach((x, i) => {
      if (line.y[i] === null) { pen = "M"; return; }
      path += `${pen}${this.x(x).toFixed(1)},${this.y(line.y[i]).toFixed(1)}`;
      pen = "L";
    });
    const colour = this.suite.methods[line.method].colour;
    element("path", { d: path, fill: "none", stroke: colour, "stroke-width": width, opacity }, parent);
  }

  // The run whose curve passes nearest to a point of the panel.
  nearest(px, py) {
    let best = null, distance = Infinity;
    for (const line of this.seeds) {
      if (this.hidden.has(line.method)) continue;
      line.x.forEach((x, i) => {
        if (line.y[i] === null) return;
        const d = Math.hypot((this.x(x) - px) * 1.5, this.y(line.y[i]) - py);
        if (d < distance) { distance = d; best = [line, i]; }
      });
    }
    return best;
  }

  listen(svg) {
    const at = (event) => {
      const box = svg.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width * W, (event.clientY - box.top) / box.height * H];
    };
    svg.addEventListener("pointermove", (event) => this.move(...at(event)));
    svg.addEventListener("pointerleave", () => { this.tip.hidden = true; this.drag = null; this.mark.replaceChildren(); });
    svg.addEventListener("pointerdown", (event) => { this.drag = at(event)[0]; this.move(...at(event)); });
    svg.addEventListener("pointerup", (event) => {
      const from = this.drag, to = at(event)[0];
      this.drag = null;
      if (from === null || Math.abs(to - from) < 12) return;
      this.zoom = [Math.min(from, to), Math.max(from, to)].map((px) => Math.max(0, this.back(px)));
      this.draw(this.hidden);
    });
    svg.addEventListener("dblclick", () => { this.zoom = null; this.draw(this.hidden); });
  }

  move(px, py) {
    this.mark.replaceChildren();
    if (this.drag !== null && Math.abs(px - this.drag) >= 12)
      element("rect", { x: Math.min(px, this.drag), y: TOP, width: Math.abs(px - this.drag), height: H - TOP - BOTTOM, class: "brush" }, this.mark);
    const rows = [];
    for (const line of this.lines) {
      if (this.hidden.has(line.method)) continue;
      let best = -1;
      line.x.forEach((x, i) => {
        if (line.mean[i] !== null && (best < 0 || Math.abs(this.x(x) - px) < Math.abs(this.x(line.x[best]) - px))) best = i;
      });
      if (best < 0) continue;
      const method = this.suite.methods[line.method];
      element("circle", { cx: this.x(line.x[best]), cy: this.y(line.mean[best]), r: 3.5, fill: method.colour }, this.mark);
      rows.push([line, best, method]);
    }
    this.tip.replaceChildren();
    for (const [line, i, method] of rows) {
      const row = document.createElement("div");
      const name = document.createElement("b");
      name.textContent = method.label;
      name.style.color = method.colour;
      const spread = line.low[i] === null ? "" : ` [${line.low[i].toFixed(0)}, ${line.high[i].toFixed(0)}]`;
      row.append(name, ` ${line.mean[i].toFixed(0)}${spread} at ${short(line.x[i])}, ${line.n[i]} of ${line.planned} runs`);
      this.tip.append(row);
    }
    const near = this.nearest(px, py);
    if (near) {
      const [line, i] = near, row = document.createElement("div");
      this.seed(line, 2, 1, this.mark);
      row.className = "hint run";
      row.textContent = `${line.run}: ${line.y[i].toFixed(0)} at ${short(line.x[i])}`;
      this.tip.append(row);
    }
    this.tip.hidden = rows.length === 0;
    this.tip.style.top = "102%";
    this.tip.style.left = "0";
  }
}

function button(label, colour, pressed, click) {
  const node = document.createElement("button");
  node.type = "button";
  node.setAttribute("aria-pressed", String(pressed));
  if (colour) {
    const dot = document.createElement("i");
    dot.style.background = colour;
    node.append(dot);
  }
  node.append(label);
  node.addEventListener("click", () => {
    const now = node.getAttribute("aria-pressed") !== "true";
    node.setAttribute("aria-pressed", String(now));
    click(now);
  });
  return node;
}

for (const box of document.querySelectorAll(".curves")) {
  const suite = DATA[box.dataset.suite];
  const hidden = new Set();
  const methods = document.createElement("div"), tasks = document.createElement("div"), panels = document.createElement("div");
  methods.className = "choices methods";
  tasks.className = "choices tasks";
  panels.className = "panels";
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.textContent = `${suite.yLabel}: mean over seeds, shade: ${suite.band}. Point at a curve for numbers and runs; drag to zoom, double-click to see all again.`;
  box.append(methods, tasks, hint, panels);
  const all = {};
  for (const task in suite.tasks) {
    all[task] = new Panel(panels, suite, task);
    tasks.append(button(suite.tasks[task], null, true, (on) => { all[task].node.hidden = !on; }));
  }
  for (const method in suite.methods)
    methods.append(button(suite.methods[method].label, suite.methods[method].colour, true, (on) => {
      if (on) hidden.delete(method); else hidden.add(method);
      for (const task in all) all[task].draw(hidden);
    }));
}
document.body.dataset.ready = "true";
