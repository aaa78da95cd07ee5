"use strict";
// Interactive curves, drawn by plotly.js: a panel per task. The page holds plotly.js (gzip, base64)
// and the numbers of report.py (JSON). Pictures, videos and panels load when they come into view.
const DATA = JSON.parse(document.getElementById("data").textContent);
const MANY_POINTS = 15; // a line with more points has no marks
const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)");

// --- small helpers ---------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function csv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",") + "\n").join("");
}

const tip = make("div", { class: "tip", role: "status" });
tip.hidden = true;
document.body.append(tip);
// While the page scrolls, a resting pointer leaves its panel by itself; a finger does not.
addEventListener("scroll", () => { tip.hidden ||= touch.matches; }, { passive: true });

let plotly;
function loadPlotly() {
  plotly ??= (async () => {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(make("script", {}, await new Response(stream).text()));
    return window.Plotly;
  })();
  return plotly;
}

// Calls `show(node)` once for each node, when it is about to come into view.
function whenSeen(nodes, show) {
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries)
      if (entry.isIntersecting) {
        observer.unobserve(entry.target);
        show(entry.target);
      }
  }, { rootMargin: "300px" });
  nodes.forEach((node) => observer.observe(node));
}

// A colour chosen for white pages; on a dark page dark colours become lighter.
function onPage(colour, alpha = 1) {
  let [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  if (dark.matches && 0.2126 * r + 0.7152 * g + 0.0722 * b < 110)
    [r, g, b] = [r, g, b].map((v) => Math.round(v + (255 - v) * 0.45));
  return `rgba(${r},${g},${b},${alpha})`;
}

const value = (y) => y === null ? "" : String(+y.toPrecision(Math.abs(y) >= 1000 ? 6 : 3));

// --- curves ----------------------------------------------------------------------------------

class Panel {
  constructor(curves, task) {
    this.curves = curves;
    this.suite = curves.suite;
    this.task = task;
    this.title = this.suite.tasks[task];
    const of = (lines) => lines.filter((line) => line.task === task);
    this.lines = of(this.suite.lines);
    this.seeds = of(this.suite.seeds);
    this.levels = of(this.suite.levels);
    this.xs = [...new Set(this.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    this.plot = make("div", {
      class: "plot", tabindex: 0, role: "img", onkeydown: (event) => this.key(event), onblur: () => { tip.hidden = true; },
      "aria-label": `${this.title}. Arrow keys show values, + and - zoom, 0 shows all.`,
    });
    this.enlarge = make("button", { type: "button", class: "one-panel", onclick: () => curves.choose(curves.one ? "" : task) });
    this.node = make("div", { class: "panel", "data-task": task },
      make("div", { class: "bar" }, make("h4", {}, this.title), this.enlarge,
        make("button", { type: "button", class: "png", onclick: () => this.png() }, "PNG")),
      this.plot);
    this.at = -1;
    this.seen = false;
    whenSeen([this.plot], () => { this.seen = true; this.draw(); });
  }

  shown(lines) { return lines.filter((line) => this.curves.shows(line.method)); }

  // Lowest and highest y of what is shown.
  extent() {
    const finite = [
      ...this.shown(this.levels).map((line) => line.level),
      ...this.shown(this.lines).flatMap((line) => [...line.mean, ...line.low, ...line.high]),
      ...this.shown(this.seeds).flatMap((line) => line.y),
    ].filter((y) => y !== null);
    return finite.length ? [Math.min(0, ...finite), Math.max(...finite)] : [0, 1];
  }

  traces() {
    const found = [], single = this.curves.single.checked;
    const whole = this.suite.steps || this.xs.length < 2 ? [0, ...this.xs] : this.xs;
    const look = (line) => this.suite.methods[line.method];
    for (const line of this.shown(this.levels))
      found.push({
        x: whole, y: whole.map(() => line.level), mode: "lines",
        line: { color: onPage(look(line).colour), width: 1.2, dash: look(line).dash },
        text: whole.map(() => `${look(line).label} ${value(line.level)}`), hoverinfo: single ? "skip" : "none",
      });
    for (const line of this.shown(this.lines)) {
      const kept = line.x.map((_, i) => i).filter((i) => line.low[i] !== null);
      if (kept.length < 2) continue;
      const back = [...kept].reverse();
      found.push({
        x: [...kept, ...back].map((i) => line.x[i]),
        y: [...kept.map((i) => line.high[i]), ...back.map((i) => line.low[i])],
        mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: onPage(look(line).colour, 0.16), hoverinfo: "skip",
      });
    }
    for (const line of this.shown(this.seeds))
      found.push({
        x: line.x, y: line.y, mode: "lines", opacity: single ? 0.9 : 0.35,
        line: { color: onPage(look(line).colour), width: single ? 1.3 : 0.8 }, hoverinfo: single ? "none" : "skip",
        text: line.y.map((y) => `${line.run}: ${value(y)}`),
      });
    for (const line of this.shown(this.lines)) {
      const { colour, symbol, dash, label } = look(line);
      const full = line.x.map((_, i) => line.n[i] >= line.planned);
      const band = (i) => line.low[i] === null ? "" : ` [${value(line.low[i])}, ${value(line.high[i])}]`;
      const base = { x: line.x, line: { color: onPage(colour), width: 2, dash } };
      const few = line.x.length <= MANY_POINTS;
      // Dotted where fewer runs than planned contribute to the mean.
      found.push({
        ...base, y: line.mean, mode: few ? "lines+markers" : "lines", name: label,
        line: { ...base.line, dash: full.every(Boolean) ? dash : "dot" },
        marker: { symbol, size: 7, color: onPage(colour) },
        text: line.x.map((x, i) => `${label} ${value(line.mean[i])}${band(i)}, ${line.n[i]} of ${line.planned} runs`),
        hoverinfo: single ? "skip" : "none", meta: line.method,
      });
      if (!full.every(Boolean))
        found.push({ ...base, y: line.mean.map((y, i) => full[i] ? y : null), mode: "lines", hoverinfo: "skip" });
    }
    return found;
  }

  layout() {
    const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const grid = { gridcolor: css("--line"), linecolor: css("--soft"), zeroline: false, automargin: true, nticks: 6 };
    const [low, high] = this.curves.same.checked ? this.curves.extent() : this.extent();
    const room = (high - low || 1) * 0.04, last = this.xs.at(-1) || 1;
    return {
      margin: { l: 56, r: 14, t: 8, b: 44 }, showlegend: false, autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: css("--ink") },
      xaxis: {
        ...grid, title: { text: this.suite.xLabel, standoff: 6 },
        showspikes: true, spikemode: "across", spikethickness: 1, spikedash: "solid", spikecolor: css("--soft"),
        // 500k, 1M, as in the figures.
        ...(this.suite.steps ? { range: [0, last * 1.01], tickformat: "~s" } : { tickvals: this.xs, exponentformat: "none" }),
      },
      yaxis: { ...grid, title: { text: this.suite.yLabel, standoff: 6 }, exponentformat: "none", range: [low - room, high + room] },
      hovermode: this.curves.single.checked ? "closest" : "x", hoverdistance: 30,
      dragmode: touch.matches ? false : "zoom",
    };
  }

  async draw() {
    this.enlarge.textContent = this.curves.one ? "All panels" : "Enlarge";
    if (!this.seen || this.node.hidden) return;
    try {
      const Plotly = await loadPlotly();
      await Plotly.react(this.plot, this.traces(), this.layout(), { displayModeBar: false, responsive: true });
      if (!this.node.dataset.drawn) {
        this.plot.on("plotly_hover", ({ points, event }) => {
          points.sort((a, b) => !a.data.meta - !b.data.meta || a.curveNumber - b.curveNumber);
          this.tell(points[0].x, points.map((one) => [one.data.line.color, one.data.text[one.pointNumber]]), event);
        });
        this.plot.on("plotly_unhover", () => { tip.hidden = true; });
      }
      this.node.dataset.drawn = "true";
    } catch (error) {
      this.plot.textContent = `The curves cannot be drawn in this browser (${error.message}). The figures below show them, too.`;
    }
  }

  // Shows the values at x next to the pointer, inside the window. rows: [colour, text] each.
  tell(x, rows, pointer) {
    const row = ([colour, text]) => make("div", {}, make("i", { style: `background: ${colour}` }), text);
    tip.replaceChildren(make("b", {}, `${this.suite.xLabel}: ${x.toLocaleString("en")}`), ...rows.map(row));
    tip.hidden = false;
    const box = this.plot.getBoundingClientRect(), axis = this.plot._fullLayout.xaxis;
    const at = box.left + axis._offset + axis.d2p(x), { width, height } = tip.getBoundingClientRect();
    const right = Math.max(at, pointer?.clientX ?? at) + 14;
    const left = right + width < innerWidth ? right : Math.min(at, pointer?.clientX ?? at) - 14 - width;
    const top = (pointer?.clientY ?? box.top + box.height / 2) - height / 2;
    // Without room on either side, as on a phone, it goes below the panel.
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${left < 0 ? box.bottom : Math.max(4, Math.min(top, innerHeight - height - 4))}px`;
  }

  async png() {
    const Plotly = await loadPlotly();
    const css = getComputedStyle(document.documentElement), paper = css.getPropertyValue("--paper").trim();
    const layout = { ...this.layout(), title: { text: this.title, font: { size: 15 } }, paper_bgcolor: paper, plot_bgcolor: paper, showlegend: true };
    layout.margin = { ...layout.margin, t: 40 };
    const data = this.traces().map((trace) => ({ ...trace, showlegend: Boolean(trace.name) }));
    await Plotly.downloadImage({ data, layout }, { format: "png", width: 900, height: 520, scale: 2, filename: `${this.curves.name}-${this.task.replace(/\W/g, "-")}` });
  }

  key(event) {
    const Plotly = window.Plotly;
    if (!Plotly || !this.node.dataset.drawn || event.ctrlKey || event.metaKey) return;
    const zoom = (factor) => {
      const [low, high] = this.plot.layout.xaxis.range, middle = this.xs[this.at] ?? (low + high) / 2;
      Plotly.relayout(this.plot, { "xaxis.range": [middle + (low - middle) * factor, middle + (high - middle) * factor] });
    };
    const step = (by) => {
      this.at = Math.max(0, Math.min(this.xs.length - 1, this.at + by));
      const x = this.xs[this.at];
      const rows = this.plot.data.filter((trace) => trace.meta).map((trace) => [trace.line.color, trace.text[trace.x.indexOf(x)]]);
      this.tell(x, rows.filter(([, text]) => text));
    };
    const act = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), "+": () => zoom(0.6), "-": () => zoom(1 / 0.6), 0: () => this.draw(), Escape: () => { tip.hidden = true; } }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
}

class Curves {
  constructor(box) {
    this.name = box.dataset.suite;
    this.suite = DATA[this.name];
    this.hidden = new Set();
    this.one = "";
    const redraw = () => this.draw();
    this.same = make("input", { type: "checkbox", class: "same", onchange: redraw });
    this.same.checked = this.suite.sameScale;
    this.single = make("input", { type: "checkbox", class: "single", onchange: redraw });
    this.buttons = Object.keys(this.suite.methods).map((method) => this.button(method));
    this.tasks = make("select", { class: "tasks", onchange: (event) => this.choose(event.target.value) }, make("option", { value: "" }, "all"),
      ...Object.entries(this.suite.tasks).map(([task, title]) => make("option", { value: task }, title)));
    this.hint = make("p", { class: "hint" });
    this.grid = make("div", { class: "panels" });
    const words = (text, node) => make("label", {}, node, ` ${text}`);
    box.append(
      make("div", { class: "choices methods" }, ...this.buttons,
        make("button", { type: "button", class: "all", onclick: () => this.show(() => true) }, "All"),
        make("button", { type: "button", class: "none", onclick: () => this.show(() => false) }, "None")),
      make("div", { class: "choices" }, make("label", {}, "Task ", this.tasks), words("one y-axis for all", this.same),
        ...(this.suite.seeds.length ? [words("single runs", this.single)] : []),
        make("button", { type: "button", class: "csv", onclick: () => save(`${this.name}-curves.csv`, this.csv()) }, "Download CSV")),
      this.hint, this.grid);
    this.panels = Object.keys(this.suite.tasks).map((task) => new Panel(this, task));
    this.grid.append(...this.panels.map((panel) => panel.node));
    this.grid.classList.toggle("one", this.panels.length === 1);
    if (this.panels.length === 1) this.panels[0].enlarge.hidden = true;
    dark.addEventListener("change", () => { this.paint(); this.draw(); });
    this.paint();
    this.draw();
  }

  button(method) {
    const { label } = this.suite.methods[method];
    const node = make("button", {
      type: "button", class: "method", title: "Show or hide; alone: double-click, or Shift and Enter",
      onclick: (event) => this.show((one) => event.shiftKey ? one === method : this.shows(one) !== (one === method)),
      ondblclick: () => this.show((one) => one === method),
    });
    node.innerHTML = '<svg viewBox="0 0 26 10" aria-hidden="true"><line x1="0" x2="26" y1="5" y2="5" stroke-width="3"/></svg>';
    node.append(label);
    node.dataset.method = method;
    return node;
  }

  paint() {
    for (const node of this.buttons) {
      const { colour, dash } = this.suite.methods[node.dataset.method], line = node.querySelector("line");
      line.setAttribute("stroke", onPage(colour));
      line.setAttribute("stroke-dasharray", dash === "solid" ? "none" : dash.replaceAll("px", ""));
    }
  }

  shows(method) { return !this.hidden.has(method); }

  show(wanted) {
    this.hidden = new Set(Object.keys(this.suite.methods).filter((method) => !wanted(method)));
    this.draw();
  }

  choose(task) {
    this.one = task;
    this.tasks.value = task;
    this.grid.classList.toggle("one", Boolean(task) || this.panels.length === 1);
    for (const panel of this.panels) panel.node.hidden = Boolean(task) && panel.task !== task;
    this.draw();
  }

  extent() {
    const all = this.panels.map((panel) => panel.extent());
    return [Math.min(...all.map((one) => one[0])), Math.max(...all.map((one) => one[1]))];
  }

  draw() {
    for (const node of this.buttons) node.setAttribute("aria-pressed", String(this.shows(node.dataset.method)));
    const axes = this.panels.length < 2 ? "" : this.same.checked ? " All panels have the same y-axis." : " Each panel has its own y-axis.";
    const dots = this.suite.lines.some((line) => line.n.some((n) => n < line.planned)) ? " Dotted: fewer runs than planned." : "";
    const spread = this.suite.lines.some((line) => line.low.some((low) => low !== null));
    this.hint.textContent = `${this.suite.yLabel}: ${spread ? `mean over seeds; shade: ${this.suite.band}` : "one seed per task and method"}.${axes}${dots} ` +
      `${spread && this.suite.seeds.length ? "Thin: single runs. " : ""}${touch.matches ? "Tap a curve for its values, tap a method twice to see it alone." : "Drag to zoom, double-click to see all. Double-click a method to see it alone."}`;
    for (const panel of this.panels) panel.draw();
  }

  csv() {
    const rows = this.suite.lines.flatMap((line) => line.x.map((x, i) =>
      [line.task, line.method, x, line.mean[i], line.low[i], line.high[i], line.n[i], line.planned]));
    return csv([["task", "method", this.suite.x, "mean", "low", "high", "runs", "planned"], ...rows]);
  }
}

// --- the table of runs -----------------------------------------------------------------------

function runTable(table) {
  const box = table.closest("details"), search = box.querySelector(".search"), state = box.querySelector(".state");
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const text = (row, place) => row.cells[place].textContent;
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const content = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => content.includes(word)) || Boolean(state.value && !row.classList.contains(state.value));
    }
    const count = rows.filter((row) => !row.hidden).length;
    box.querySelector(".found").textContent = count === rows.length ? "" : `${count} of ${rows.length} runs`;
  };
  search.addEventListener("input", filter);
  state.addEventListener("change", filter);
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((one) => one.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sorted = [...rows].sort((a, b) =>
      text(a, place).localeCompare(text(b, place), "en", { numeric: true }) * (down ? -1 : 1));
    const number = (row) => Number(text(row, place).replaceAll(",", ""));
    const known = rows.filter((row) => Number.isFinite(number(row)));
    // A column of numbers is sorted by value; cells without a number come last.
    if (known.length && rows.every((row) => known.includes(row) || text(row, place) === "–"))
      sorted.sort((a, b) => !known.includes(a) - !known.includes(b) || (number(a) - number(b)) * (down ? -1 : 1) || 0);
    body.append(...sorted);
  }));
  box.querySelector(".csv").addEventListener("click", () => save(`${table.dataset.suite}-runs.csv`,
    csv([heads.map((head) => head.textContent), ...[...body.rows].filter((row) => !row.hidden).map((row) => heads.map((_, place) => text(row, place)))])));
}

// --- the page --------------------------------------------------------------------------------

function openTarget() {
  const section = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  section?.querySelector("details")?.setAttribute("open", "");
  section?.scrollIntoView();
}

document.querySelectorAll(".curves").forEach((box) => new Curves(box));
document.querySelectorAll("table.runs").forEach(runTable);
whenSeen(document.querySelectorAll("[data-src]"), (node) => { node.src = node.dataset.src; });
addEventListener("hashchange", openTarget);
if (location.hash) openTarget();
document.body.dataset.ready = "true";
