// The loss chart of a run (uPlot).  One instance; data is swapped in place, so zoom and hidden tasks survive updates.
const cssColor = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
const taskColor = (index) => cssColor(`--st-t${index % 8}`);
const faded = (hex, part) => hex + Math.round(part * 255).toString(16).padStart(2, "0");
const fixed = (value, digits = 3) => (value === null || value === undefined || !isFinite(value) ? "–" : value.toFixed(digits));

const WHOLE_STEPS = [1, 10, 100, 1000, 10000, 100000].flatMap((power) => [power, 2 * power, 5 * power]);

/** Exponential moving average that skips gaps; weight 0 returns the values themselves. */
function smooth(values, weight) {
  let state = null;
  return values.map((value) => {
    if (value === null || value === undefined) return null;
    state = state === null ? value : state * weight + value * (1 - weight);
    return state;
  });
}

class LossChart {
  constructor() {
    this.options = { weight: 0.6, log: false, hidden: new Set(), lit: -1 };
    this.plot = h("div.st-plot", { role: "img", tabindex: "0" });
    this.legend = h("div.st-legend", { role: "group", "aria-label": "Show or hide tasks" });
    this.tip = h("div.st-tip", { hidden: true });
    this.reset = h("button.ibtn", { type: "button", hidden: true, onclick: () => this.unzoom() }, "Reset zoom");
    this.node = h("section.card.chart", {}, h("div.card-h", {}, h("h2", {}, "Loss by task"), this.key(), h("div.grow"), this.reset,
      this.choice("Smoothing", [[0, "Raw"], [0.6, "Smooth"], [0.9, "Smoother"]], "weight"), this.choice("Vertical scale", [[false, "Linear"], [true, "Log"]], "log")), this.legend, this.plot);
    new MutationObserver(() => this.chart && this.chart.redraw(false)).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  }

  key() {
    return h("div.st-key", {}, h("span", {}, h("i.line"), "Train"), h("span", {}, h("i.line.dashed"), "Eval"));
  }

  choice(label, choices, option) {
    const group = h("div.seg", { role: "group", "aria-label": label });
    choices.forEach(([value, text]) => group.append(h("button", { type: "button", "aria-pressed": String(this.options[option] === value), onclick: (event) => {
      for (const button of group.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      this.options[option] = value;
      this.rebuild();
    } }, text)));
    return group;
  }

  /** train, eval: {step, tasks: [[...]]}; names: task names. */
  show(train, evals, names) {
    const changed = !this.names || this.names.join() !== names.join();
    Object.assign(this, { train, evals, names });
    if (!train.step.length && !evals.step.length) { this.plot.replaceChildren(h("p.empty", {}, "The first point appears after the first step.")); this.chart = null; return; }
    if (changed || !this.chart) this.rebuild(); else this.refresh();
    this.drawLegend();
  }

  data() {
    const raw = this.train.tasks, mean = raw.map((values) => smooth(values, this.options.weight));
    return uPlot.join([[this.train.step, ...raw, ...mean], [this.evals.step, ...this.evals.tasks]]);
  }

  refresh() {
    this.chart.setData(this.data(), false);
    if (this.zoom) this.chart.setScale("x", this.zoom);
    else { const x = this.chart.data[0]; this.chart.setScale("x", { min: x[0], max: Math.max(x[x.length - 1], x[0] + 1) }); }
  }

  unzoom() { this.zoom = null; this.reset.hidden = true; this.refresh(); }

  rebuild() {
    if (!this.names) return;
    if (this.chart) this.chart.destroy();
    this.plot.replaceChildren();
    const count = this.names.length, shown = (i) => !this.options.hidden.has(i);
    const strength = (i) => (this.options.lit < 0 || this.options.lit === i ? 1 : 0.18);
    const lone = { show: () => this.train.step.length < 3, size: 6 }; // a line needs two points, a dot needs one
    const line = (i, extra) => ({ show: shown(i), spanGaps: true, points: lone, ...extra });
    const all = Array.from({ length: count }, (_, i) => i);
    const series = [{}, ...all.map((i) => line(i, { stroke: () => faded(taskColor(i), (this.options.weight ? 0.25 : 0.9) * strength(i)), width: this.options.weight ? 1 : 1.5 })),
      ...all.map((i) => line(i, { show: shown(i) && this.options.weight > 0, stroke: () => faded(taskColor(i), strength(i)), width: 2 })),
      ...all.map((i) => line(i, { stroke: () => faded(taskColor(i), strength(i)), width: 1.75, dash: [6, 4], points: { show: true, size: 7, width: 2, fill: () => cssColor("--st-card"), stroke: () => faded(taskColor(i), strength(i)) } }))];
    const axis = (extra) => ({ stroke: () => cssColor("--st-text-3"), font: "12px system-ui, sans-serif", grid: { stroke: () => cssColor("--st-grid"), width: 1 }, ticks: { show: false }, ...extra });
    this.chart = new uPlot({ width: this.plot.clientWidth || 700, height: 320, padding: [10, 14, 0, 0], legend: { show: false }, series,
      scales: { x: { time: false }, y: { distr: this.options.log ? 3 : 1 } },
      axes: [axis({ space: 80, size: 30, incrs: WHOLE_STEPS }), axis({ size: 46, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : tick.toFixed(tick < 1 ? 2 : 1))) })],
      cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false } },
      hooks: { setCursor: [() => this.hover()], setSelect: [(u) => this.select(u)] } }, this.data(), this.plot);
    this.chart.over.append(this.tip);
    this.chart.over.addEventListener("dblclick", () => this.unzoom());
    if (!this.sizer) { this.sizer = new ResizeObserver(() => { const width = this.plot.clientWidth; if (this.chart && width && Math.abs(width - this.chart.width) > 1) this.chart.setSize({ width, height: 320 }); }); this.sizer.observe(this.plot); }
    this.refresh();
  }

  select(chart) {
    if (chart.select.width < 8) return;
    this.zoom = { min: chart.posToVal(chart.select.left, "x"), max: chart.posToVal(chart.select.left + chart.select.width, "x") };
    this.reset.hidden = false;
    chart.setSelect({ width: 0, height: 0 }, false);
    chart.setScale("x", this.zoom);
  }

  hover() {
    const { left, top } = this.chart.cursor;
    if (left < 0) { this.tip.hidden = true; return; }
    const at = this.chart.posToVal(left, "x");
    const near = (steps) => steps.reduce((best, step, index) => (Math.abs(step - at) < Math.abs(steps[best] - at) ? index : best), 0);
    const t = near(this.train.step), e = near(this.evals.step);
    const back = (values, from) => { for (let i = from; i >= 0; i -= 1) if (values[i] !== null && values[i] !== undefined) return values[i]; return null; };
    const rows = this.names.map((name, i) => ({ i, name, train: back(smooth(this.train.tasks[i], this.options.weight), t), eval: back(this.evals.tasks[i], e) })).filter((row) => !this.options.hidden.has(row.i));
    const step = this.train.step.length ? this.train.step[t] : this.evals.step[e];
    this.tip.replaceChildren(h("div.h", {}, h("span", {}, `Step ${count(step)}`), h("span", {}, "train"), h("span", {}, "eval")),
      ...rows.map((row) => h("div.r.num", {}, h("span", {}, h("i.sw", { style: { background: color(row.i) } }), row.name), h("span", {}, fixed(row.train)), h("span", {}, fixed(row.eval)))));
    this.tip.hidden = false;
    const width = this.tip.offsetWidth, room = this.chart.over.clientWidth;
    this.tip.style.left = `${left + 16 + width > room ? Math.max(0, left - width - 16) : left + 16}px`;
    this.tip.style.top = `${Math.max(0, Math.min(top - 20, this.chart.over.clientHeight - this.tip.offsetHeight))}px`;
  }

  drawLegend() {
    if (this.legend.childElementCount !== this.names.length) {
      this.legend.replaceChildren(...this.names.map((name, i) => h("button", { type: "button", "aria-pressed": "true", onclick: (event) => {
        const off = this.options.hidden;
        if (off.has(i)) off.delete(i); else off.add(i);
        event.currentTarget.setAttribute("aria-pressed", String(!off.has(i)));
        this.rebuild();
      }, onmouseenter: () => { this.options.lit = i; this.chart && this.chart.redraw(false); }, onmouseleave: () => { this.options.lit = -1; this.chart && this.chart.redraw(false); } },
      h("i.sw", { style: { background: color(i) } }), h("span", {}, name), h("b.num"))));
    }
    const latest = this.names.map((_, i) => { const known = smooth(this.train.tasks[i], this.options.weight).filter((value) => value !== null); return known.length ? known[known.length - 1] : null; });
    [...this.legend.children].forEach((button, i) => { button.lastChild.textContent = fixed(latest[i], 2); });
    this.plot.setAttribute("aria-label", `Training and evaluation loss per task; the values stand in the table of tasks. ${this.names.map((name, i) => `${name} ${fixed(latest[i], 2)}`).join(", ")}`);
  }
}
