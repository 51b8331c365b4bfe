// The loss chart of a run (uPlot).  One instance; data is swapped in place, so zoom and hidden tasks survive updates.
const cssColor = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
const taskColor = (task) => cssColor(color(task).slice(4, -1));
const faded = (hex, part) => hex + Math.round(part * 255).toString(16).padStart(2, "0");
const fixed = (value, digits = 3) => (value === null || value === undefined || !isFinite(value) ? "–" : value.toFixed(digits));

const WHOLE_STEPS = [1, 10, 100, 1000, 10000, 100000, 1e6, 1e7, 1e8].flatMap((power) => [power, 2 * power, 5 * power]);
const brief = (value) => (value >= 1e9 ? `${+(value / 1e9).toFixed(2)}G` : value >= 1e6 ? `${+(value / 1e6).toFixed(2)}M` : value >= 1e3 ? `${+(value / 1e3).toFixed(1)}k` : `${+value.toPrecision(3)}`);

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
  constructor(csv) {
    this.options = { weight: 0.6, log: false, relative: false, x: "step", hidden: new Set(), lit: -1 };
    this.plot = h("div.st-plot", { role: "img", tabindex: "0", "aria-label": "Training and evaluation loss per task" });
    this.legend = h("div.st-legend", { role: "group", "aria-label": "Show or hide tasks" });
    this.tip = h("div.st-tip", { hidden: true });
    this.reset = h("button.ibtn", { type: "button", hidden: true, onclick: () => this.unzoom() }, "Reset zoom");
    this.node = h("section.card.chart", {}, h("div.card-h", {}, h("h2", {}, "Loss by task"), this.key(), h("div.grow"), this.reset,
      this.choice("Measure", [[false, "Loss"], [true, "Relative"]], "relative"), this.choice("Horizontal axis", [["step", "Steps"], ["tokens", "Tokens"], ["time", "Time"]], "x"),
      this.choice("Smoothing", [[0, "Raw"], [0.6, "Smooth"], [0.9, "Smoother"]], "weight"), this.choice("Vertical scale", [[false, "Linear"], [true, "Log"]], "log")), this.legend, this.plot,
      h("div.chart-foot", {}, h("button.ibtn", { type: "button", onclick: () => this.picture() }, "PNG"), h("a.ibtn", { href: csv, download: "metrics.csv" }, "CSV")));
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
      if (option === "x") { this.zoom = null; this.reset.hidden = true; }
      this.rebuild();
    } }, text)));
    return group;
  }

  /** train, eval: {step, tasks: [[...]]}; names: task names; marks: [{step, color, text}]. */
  show(train, evals, names, marks) {
    const changed = !this.names || this.names.join() !== names.join();
    Object.assign(this, { train, evals, names, marks });
    if (!train.step.length && !evals.step.length) { this.plot.replaceChildren(h("p.empty", {}, "The first point appears after the first step.")); this.chart = null; return; }
    if (changed || !this.chart) this.rebuild(); else this.refresh();
    this.drawLegend();
  }

  data() {
    const { raw, mean, evals } = this.values();
    return uPlot.join([[this.train.step.map((step) => this.x(step)), ...raw, ...mean], [this.evals.step.map((step) => this.x(step)), ...evals]]);
  }

  /** The curves as they are drawn: as they were measured, or each as a share of its own first value. */
  values() {
    const mean = this.train.tasks.map((values) => smooth(values, this.options.weight));
    if (!this.options.relative) return { raw: this.train.tasks, mean, evals: this.evals.tasks };
    const over = (values, start) => values.map((value) => (value === null || value === undefined || !start ? null : value / start));
    const first = (values) => values.find((value) => value !== null && value !== undefined);
    const starts = mean.map((values) => first(values));
    return { raw: this.train.tasks.map((values, i) => over(values, starts[i])), mean: mean.map((values, i) => over(values, starts[i])), evals: this.evals.tasks.map((values) => over(values, first(values))) };
  }

  /** Where a step stands on the chosen axis: steps, tokens seen, or seconds since the first logged step. */
  x(step) {
    const values = this.train[this.options.x], steps = this.train.step;
    if (this.options.x === "step" || !steps.length) return step;
    let at = 0;
    while (at + 1 < steps.length && steps[at + 1] <= step) at += 1;
    return (step < steps[0] ? (this.options.x === "tokens" ? 0 : values[0]) : values[at]) - (this.options.x === "time" ? values[0] : 0);
  }

  said(x) { return this.options.x === "time" ? duration(x) : this.options.x === "tokens" ? brief(x) : count(x); }

  /** Save what is seen, on the card's own ground. */
  picture() {
    if (!this.chart) return;
    const from = this.chart.ctx.canvas, copy = document.createElement("canvas");
    Object.assign(copy, { width: from.width, height: from.height });
    const context = copy.getContext("2d");
    context.fillStyle = cssColor("--st-card");
    context.fillRect(0, 0, copy.width, copy.height);
    context.drawImage(from, 0, 0);
    h("a", { href: copy.toDataURL("image/png"), download: "loss.png" }).click();
  }

  drawMarks(u) {
    for (const mark of this.marks || []) {
      const x = u.valToPos(this.x(mark.step), "x", true), { left, top, width, height } = u.bbox;
      if (x < left || x > left + width) continue;
      u.ctx.save();
      Object.assign(u.ctx, { strokeStyle: cssColor(mark.color), fillStyle: cssColor(mark.color), lineWidth: devicePixelRatio, font: `${11 * devicePixelRatio}px system-ui, sans-serif`, textAlign: x > left + width - 60 * devicePixelRatio ? "right" : "left" });
      u.ctx.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
      u.ctx.beginPath(); u.ctx.moveTo(x, top); u.ctx.lineTo(x, top + height); u.ctx.stroke();
      u.ctx.fillText(mark.text, x + (u.ctx.textAlign === "right" ? -4 : 4) * devicePixelRatio, top + 10 * devicePixelRatio);
      u.ctx.restore();
    }
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
    const series = [{}, ...all.map((i) => line(i, { stroke: () => faded(taskColor(this.names[i]), (this.options.weight ? 0.25 : 0.9) * strength(i)), width: this.options.weight ? 1 : 1.5 })),
      ...all.map((i) => line(i, { show: shown(i) && this.options.weight > 0, stroke: () => faded(taskColor(this.names[i]), strength(i)), width: 2 })),
      ...all.map((i) => line(i, { stroke: () => faded(taskColor(this.names[i]), strength(i)), width: 1.75, dash: [6, 4], points: { show: true, size: 7, width: 2, fill: () => cssColor("--st-card"), stroke: () => faded(taskColor(this.names[i]), strength(i)) } }))];
    const axis = (extra) => ({ stroke: () => cssColor("--st-text-3"), font: "12px system-ui, sans-serif", grid: { stroke: () => cssColor("--st-grid"), width: 1 }, ticks: { show: false }, ...extra });
    this.chart = new uPlot({ width: this.plot.clientWidth || 700, height: 320, padding: [10, 14, 0, 0], legend: { show: false }, series,
      scales: { x: { time: false }, y: { distr: this.options.log ? 3 : 1 } },
      axes: [axis({ space: 80, size: 30, ...(this.options.x === "time" ? {} : { incrs: WHOLE_STEPS }), values: (_, ticks) => ticks.map((tick) => this.said(tick)) }), axis({ size: 46, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : tick.toFixed(tick < 1 ? 2 : 1))) })],
      cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false } },
      hooks: { draw: [(u) => this.drawMarks(u)], setCursor: [() => this.hover()], setSelect: [(u) => this.select(u)] } }, this.data(), this.plot);
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
    const t = near(this.train.step.map((step) => this.x(step))), e = near(this.evals.step.map((step) => this.x(step))), shown = this.values();
    const back = (values, from) => { for (let i = from; i >= 0; i -= 1) if (values[i] !== null && values[i] !== undefined) return values[i]; return null; };
    const rows = this.names.map((name, i) => ({ i, name, train: back(shown.mean[i], t), eval: back(shown.evals[i], e) })).filter((row) => !this.options.hidden.has(row.i));
    const step = this.train.step.length ? this.train.step[t] : this.evals.step[e];
    this.tip.replaceChildren(h("div.h", {}, h("span", {}, `Step ${count(step)}`), h("span", {}, "train"), h("span", {}, "eval")),
      ...rows.map((row) => h("div.r.num", {}, h("span", {}, h("i.sw", { style: { background: color(row.name) } }), row.name), h("span", {}, fixed(row.train)), h("span", {}, fixed(row.eval)))));
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
      h("i.sw", { style: { background: color(name) } }), h("span", { translate: "no" }, name), h("b.num"))));
    }
    const latest = this.names.map((_, i) => { const known = smooth(this.train.tasks[i], this.options.weight).filter((value) => value !== null); return known.length ? known[known.length - 1] : null; });
    [...this.legend.children].forEach((button, i) => { button.lastChild.textContent = fixed(latest[i], 2); });
    this.plot.setAttribute("aria-label", `Training and evaluation loss per task; the values stand in the table of tasks. ${this.names.map((name, i) => `${name} ${fixed(latest[i], 2)}`).join(", ")}`);
  }
}
