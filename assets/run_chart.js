// The loss chart of a run (uPlot).  One instance; data is swapped in place, so zoom and hidden tasks survive updates.
//
//   update: show(curves of the run) -> smoothed, on one x axis -> drawn;  zoom -> detail of that part -> drawn instead
const CHART_HEIGHT = 340;


class LossChart {
  /** files: {csv: where the numbers are downloaded, detail: asks the server for a part of the curves}. */
  constructor(files) {
    const kept = loadChartSettings();
    this.options = { ...kept, hidden: new Set(kept.hidden) };
    this.lit = null;
    this.zoom = null;
    this.part = null;
    this.asked = 0;
    this.askDetail = files.detail;
    this.onview = () => {};
    this.words = h("ul.unseen", { id: "chart-words" });
    this.spoken = h("div.unseen", { role: "status", "aria-live": "polite" });
    this.plot = h("div.st-plot", { role: "application", tabindex: "0", id: "chart-plot", "aria-label": "Loss by task, a chart. Arrow keys move along the curves, plus and minus zoom, Escape shows everything.", "aria-describedby": "chart-words", onkeydown: (event) => this.key(event), onblur: () => this.leave() });
    this.legend = h("div.st-legend", { role: "group", "aria-label": "Show or hide tasks" });
    this.tip = h("div.st-tip", { hidden: true });
    this.reset = h("button.ibtn", { type: "button", id: "chart-reset", hidden: true, onclick: () => this.unzoom() }, "Reset zoom");
    this.node = h("section.card.chart", {}, h("div.card-h", {}, h("h2", {}, "Loss by task"), h("div.grow"), this.reset,
      this.choice("Measure", [[false, "Loss"], [true, "Relative"]], "relative"), this.choice("Horizontal axis", [["step", "Steps"], ["tokens", "Tokens"], ["time", "Time"]], "x"),
      this.choice("Vertical scale", [[false, "Linear"], [true, "Log"]], "log"), this.slider()), this.legend, this.plot,
      h("div.chart-foot", {}, h("div.st-key", {}, h("span", {}, h("i.line"), "Train"), h("span", {}, h("i.line.dashed"), "Eval"), markKey()), h("span.sub.hint", {}, "Drag to zoom, double-click to go back"), h("span.sub.hint.by-finger", {}, "One finger reads, two zoom, a double tap goes back"), h("div.grow"),
        h("button.ibtn", { type: "button", onclick: () => this.picture() }, "PNG"), h("a.ibtn", { href: files.csv, download: "metrics.csv" }, "CSV")), this.words, this.spoken);
    new MutationObserver(() => this.chart && this.chart.redraw(false)).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  }

  // ---- controls

  choice(label, choices, option) {
    const group = h("div.seg", { role: "group", "aria-label": label });
    choices.forEach(([value, text]) => group.append(h("button", { type: "button", "aria-pressed": String(this.options[option] === value), onclick: (event) => {
      for (const button of group.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      if (option === "x") this.turn(value);
      this.options[option] = value;
      this.rebuild();
    } }, text)));
    return group;
  }

  slider() {
    const says = () => (this.options.weight ? this.options.weight.toFixed(2) : "off");
    const output = h("output.num", {}, says());
    const input = h("input", { type: "range", id: "chart-smoothing", min: "0", max: "0.99", step: "0.01", value: String(this.options.weight), oninput: () => {
      const had = this.options.weight > 0;
      this.options.weight = Number(input.value);
      output.textContent = says();
      if (had !== this.options.weight > 0) this.rebuild();
      else if (!this.waits) this.waits = requestAnimationFrame(() => { this.waits = null; this.refresh(); });
    } });
    return h("label.slide", {}, h("span", {}, "Smoothing"), input, output);
  }

  /** Turn to another x axis and keep what is seen. */
  turn(axis) {
    if (!this.zoom || axis === this.options.x) return;
    const table = this.table(), from = xsOf(table, this.options.x, this.origin), to = xsOf(table, axis, this.origin), last = to.length - 1;
    const at = (x) => to[Math.min(last, lowerBound(from, x))];
    const [min, max] = [at(this.zoom.min), at(this.zoom.max)];
    this.zoom = min < max ? { min, max } : null;
    this.part = null;
    this.reset.hidden = !this.zoom;
    this.options.x = axis;
    this.look();
  }

  key(event) {
    if (!this.chart || event.ctrlKey || event.metaKey || event.altKey) return;
    const width = this.chart.over.clientWidth, left = this.chart.cursor.left >= 0 ? this.chart.cursor.left : width / 2, stride = width / (event.shiftKey ? 10 : 60);
    const to = { ArrowLeft: left - stride, ArrowRight: left + stride, Home: 0, End: width - 1 }[event.key];
    if (to !== undefined) { this.chart.setCursor({ left: Math.max(0, Math.min(width - 1, to)), top: 20 }); this.spoken.textContent = this.heard; } else if (event.key === "+" || event.key === "=") this.scale(0.5, left / width);
    else if (event.key === "-") this.scale(2, left / width);
    else if (event.key === "Escape" && this.zoom) this.unzoom();
    else return;
    event.preventDefault();
  }

  leave() { if (this.chart) this.chart.setCursor({ left: -10, top: -10 }); }

  // ---- zoom

  /** Zoom by a factor around a place of the plot, 0 = left, 1 = right. */
  scale(factor, place) {
    const { min, max } = this.chart.scales.x, at = min + (max - min) * place;
    if (this.aim(at - (at - min) * factor, at + (max - at) * factor)) this.look();
  }

  /** Show a part, as far as there is one, with the points there are; returns whether it is not all. */
  aim(min, max) {
    const [low, high] = this.whole(), zoom = { min: Math.max(low, min), max: Math.min(high, max) };
    if (zoom.min <= low && zoom.max >= high) { this.unzoom(); return false; }
    if (zoom.max - zoom.min <= (high - low) * 1e-6) return false;
    this.part = this.covers(zoom) ? this.part : null;
    this.zoom = zoom;
    this.reset.hidden = false;
    this.refresh();
    this.onview();
    return true;
  }

  whole() {
    const xs = xsOf(this.train, this.options.x, this.origin), evals = this.evals.step.map((step) => this.x(step));
    const first = Math.min(xs[0] ?? Infinity, evals[0] ?? Infinity), last = Math.max(xs.at(-1) ?? -Infinity, evals.at(-1) ?? -Infinity);
    return [first, Math.max(last, first + 1)];
  }

  unzoom() { this.zoom = this.part = null; this.asked += 1; this.reset.hidden = true; this.refresh(); this.onview(); }

  /** Get the points of the part that is looked at. */
  async look() {
    const zoom = this.zoom;
    if (!zoom) return;
    if (this.train.width === 4 && this.run.width === 4) return; // every row is there already
    const asked = (this.asked += 1), axis = this.options.x;
    const part = await this.askDetail(axis, zoom.min, zoom.max);
    if (!part || asked !== this.asked) return;
    this.part = part;
    this.refresh();
    this.onview();
  }

  covers(zoom) { return this.part && this.part.axis === this.options.x && this.part.low <= zoom.min && this.part.high >= zoom.max; }

  /** The training rows that are drawn: those of the part that is looked at, or all. */
  table() { return this.zoom && this.part ? this.part.train : this.train; }

  // ---- data

  /** run: its news (studio/logic/snapshot.py) with the curves put together; marks: those of chart_marks.js. */
  show({ train, run, evals, names, marks, reset }) {
    const changed = !this.names || this.names.join("\n") !== names.join("\n"), grown = reset || train.step.at(-1) !== this.lastStep;
    const same = !changed && !grown && this.chart && evals.step.length === this.evaluated && marks.length === this.marks.length;
    this.evaluated = evals.step.length;
    Object.assign(this, { train, run, evals, names: changed ? names : this.names, marks, origin: train.time[0] ?? 0, lastStep: train.step.at(-1) });
    if (!train.step.length && !evals.step.length) { this.plot.replaceChildren(h("p.empty", {}, "The first point appears after the first step.")); this.chart = null; return; }
    if (same) return;
    if (changed || !this.chart) this.rebuild(); else this.refresh();
    if (this.zoom && (reset || (grown && this.zoom.max >= this.part?.train.step.at(-1)) || (grown && this.zoom.max >= this.chart.data[0].at(-1)))) { if (reset) this.part = null; this.look(); }
  }

  /** Where a step stands on the chosen axis: the place of the last row up to it. */
  x(step) {
    if (this.options.x === "step" || !this.train.step.length) return step;
    const inside = this.zoom && this.part && this.part.train.step[0] <= step && this.part.train.step.at(-1) >= step, table = inside ? this.part.train : this.train;
    if (step < table.step[0]) return 0;
    const at = Math.max(0, lowerBound(table.step, step + 1) - 1);
    return this.options.x === "time" ? table.time[at] - this.origin : table.tokens[at];
  }

  /** Everything that is drawn: x and series of the rows, of the smoothed line, of the evaluations. */
  curves() {
    const { x: axis, weight, relative, log } = this.options, table = this.table(), base = (weight && table.mean) || table;
    const xs = xsOf(table, axis, this.origin), baseXs = base !== table ? xsOf(base, axis, this.origin) : xs, [low, high] = this.zoom ? [this.zoom.min, this.zoom.max] : this.whole();
    const inside = lowerBound(baseXs, high) - lowerBound(baseXs, low);
    const mean = base.values.map((values) => smooth(baseXs, values, weight, high - low, inside));
    const starts = this.names.map((_, i) => firstNumber((this.train.mean || this.train).values[i]) || null), evalStarts = this.evals.values.map((values) => firstNumber(values) || null);
    const drawn = (values, start) => (relative || log ? values.map((value) => (!isNumber(value) || (relative && !start) || (log && value <= 0) ? null : relative ? value / start : value)) : values);
    const all = (columns, from) => columns.map((values, i) => drawn(values, from[i]));
    return { raw: [xs, all(table.values, starts)], mean: [baseXs, all(mean, starts)], evals: [this.evals.step.map((step) => this.x(step)), all(this.evals.values, evalStarts)] };
  }

  refresh() {
    if (!this.chart) return;
    this.drawn = this.curves();
    const { raw, mean, evals } = this.drawn;
    this.chart.setData(align([raw, this.options.weight ? mean : [[], mean[1].map(() => [])], evals]), false);
    const [min, max] = this.zoom ? [this.zoom.min, this.zoom.max] : this.whole();
    this.chart.setScale("x", { min, max });
    this.drawLegend();
    this.summary();
  }

  // ---- drawing

  rebuild() {
    keepChartSettings(this.options);
    if (!this.names) return;
    if (this.chart) this.chart.destroy();
    this.plot.replaceChildren();
    const shown = (name) => !this.options.hidden.has(name), strength = (name) => (this.lit === null || this.lit === name ? 1 : 0.15), smooths = this.options.weight > 0;
    const lone = { show: () => this.train.step.length < 3, size: 6 }; // a line needs two points, a dot needs one
    const line = (name, alpha, extra) => ({ show: shown(name), spanGaps: true, points: lone, stroke: () => faded(taskColor(name), alpha * strength(name)), ...extra });
    const series = [{}, ...this.names.map((name) => line(name, smooths ? 0.25 : 0.9, { width: smooths ? 1 : 1.5 })), ...this.names.map((name) => line(name, 1, { show: shown(name) && smooths, width: 2 })),
      ...this.names.map((name) => line(name, 1, { width: 1.75, dash: [6, 4], points: { show: () => this.evals.step.length <= 60 && shapeOf(name) === "square", size: 7, width: 2, fill: () => cssColor("--st-card"), stroke: () => faded(taskColor(name), strength(name)) } }))];
    const axis = (extra) => ({ stroke: () => cssColor("--st-text-3"), font: "12px system-ui, sans-serif", grid: { stroke: () => cssColor("--st-grid"), width: 1 }, ticks: { show: false }, ...extra });
    const digits = (gap) => [0, 1, 2, 3, 4, 5].find((many) => Math.abs(gap * 10 ** many - Math.round(gap * 10 ** many)) < 1e-6) ?? 6;
    const fine = (ticks) => (this.options.log ? 0 : digits(ticks[1] - ticks[0]) || 0); // neighbours never read the same
    const level = (tick, fewest) => (tick === null ? "" : tick >= 100 ? brief(tick) : tick >= 1 || tick === 0 ? tick.toFixed(Math.max(1, fewest)) : fewest ? tick.toFixed(fewest) : +tick.toPrecision(2));
    this.chart = new uPlot({ width: this.plot.clientWidth || 700, height: CHART_HEIGHT, padding: [10, 26, 0, 0], legend: { show: false }, series,
      scales: { x: { time: false }, y: { distr: this.options.log ? 3 : 1 } },
      axes: [axis({ space: 80, size: 30, ...(this.options.x === "time" ? {} : { incrs: WHOLE_STEPS }), values: (_, ticks) => ticks.map((tick) => this.place(tick)) }), axis({ size: 46, values: (_, ticks) => ticks.map((tick) => level(tick, fine(ticks))) })],
      cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false } },
      hooks: { draw: [(u) => this.drawn && drawShapes(u, this.names.map((name, place) => ({ name, place, strength: strength(name) })).filter(({ name }) => shown(name)), this.drawn.mean, this.drawn.evals), (u) => drawMarks(u, this.marks, (step) => this.x(step))], setCursor: [() => this.hover()], setSelect: [(u) => this.select(u)] } }, [[], ...series.slice(1).map(() => [])], this.plot);
    this.chart.over.append(this.tip);
    this.chart.over.addEventListener("dblclick", () => this.unzoom());
    touchable(this.chart, (min, max) => this.aim(min, max), () => this.look());
    if (!this.sizer) { this.sizer = new ResizeObserver(() => { const width = this.plot.clientWidth; if (this.chart && width && Math.abs(width - this.chart.width) > 1) this.chart.setSize({ width, height: CHART_HEIGHT }); }); this.sizer.observe(this.plot); }
    this.refresh();
    this.onview();
  }

  place(x) { return this.options.x === "time" ? duration(x) : this.options.x === "tokens" ? brief(x) : count(x); }

  select(chart) {
    const { left, width } = chart.select;
    if (width < 8) return;
    chart.setSelect({ width: 0, height: 0 }, false);
    if (this.aim(chart.posToVal(left, "x"), chart.posToVal(left + width, "x"))) this.look();
  }

  /** Say beside the pointer what every task has there, and what happened. */
  hover() {
    const { left, top } = this.chart.cursor;
    if (!(left >= 0) || !this.drawn) { this.tip.hidden = true; return; }
    const at = this.chart.posToVal(left, "x"), { mean, evals } = this.drawn, [xs] = this.drawn.raw, table = this.table();
    const rows = this.names.map((name, i) => ({ name, train: nearest(mean[0], mean[1][i], at), eval: lastBefore(evals[0], evals[1][i], at) })).filter((row) => !this.options.hidden.has(row.name));
    const place = Math.min(xs.length - 1, lowerBound(xs, at)), step = xs.length ? table.step[place > 0 && at - xs[place - 1] < xs[place] - at ? place - 1 : place] : this.evals.step[0];
    const marks = marksNear(this.chart, this.marks, (one) => this.x(one), left);
    const named = (mark) => said(MARK_SIGNS[mark.kind] || MARK_LINES[mark.kind][1]);
    this.tip.replaceChildren(h("div.h", {}, h("span", {}, `Step ${count(step)}`), h("span", {}, "train"), h("span", {}, "eval")),
      ...rows.map((row) => h("div.r.num", {}, h("span", {}, swatch(row.name), h("span.name", { translate: "no" }, row.name)), h("span", {}, fixed(row.train)), h("span", {}, fixed(row.eval)))),
      ...marks.map((mark) => h("div.m", {}, h("b", {}, named(mark)), " ", h("span", {}, `Step ${count(mark.step)}`), ["spike", "nan", "problem"].includes(mark.kind) ? h("p", {}, mark.text) : null)));
    this.heard = [`Step ${count(step)}`, ...rows.map((row) => `${row.name} ${fixed(row.train)}${row.eval === null ? "" : `, ${fixed(row.eval)}`}`), ...marks.map((mark) => `${named(mark)} ${count(mark.step)}`)].join("; ");
    this.tip.hidden = false;
    const width = this.tip.offsetWidth, room = this.chart.over.clientWidth;
    this.tip.style.left = `${left + 16 + width > room ? Math.max(0, left - width - 16) : left + 16}px`;
    this.tip.style.top = `${Math.max(-8, Math.min(top - 20, this.chart.over.clientHeight - this.tip.offsetHeight))}px`;
  }

  // ---- words

  drawLegend() {
    const light = (name) => { this.lit = name; if (this.chart) this.chart.redraw(false); };
    if (this.listed !== this.names) {
      this.listed = this.names;
      this.legend.replaceChildren(...this.names.map((name) => h("button", { type: "button", "aria-pressed": String(!this.options.hidden.has(name)), onclick: (event) => {
        const off = this.options.hidden;
        if (off.has(name)) off.delete(name); else off.add(name);
        event.currentTarget.setAttribute("aria-pressed", String(!off.has(name)));
        this.rebuild();
      }, onmouseenter: () => light(name), onmouseleave: () => light(null) },
      swatch(name), h("span", { translate: "no" }, name), h("b.num"))));
    }
    [...this.legend.children].forEach((button, i) => { button.lastChild.textContent = fixed(lastNumber(this.drawn.mean[1][i]), 2); });
  }

  /** The chart in words: every task, and what happened. */
  summary() {
    const table = this.train, lines = this.names.map((name, i) => {
      const values = table.values[i], low = values.reduce((best, value, at) => (isNumber(value) && (best < 0 || value < values[best]) ? at : best), -1);
      return low < 0 ? `${name}: no training loss yet` : `${name}: training loss ${fixed(lastNumber(values))}, lowest ${fixed(values[low])} at step ${count(table.step[low])}; evaluation loss ${fixed(lastNumber(this.evals.values[i]))}`;
    });
    const all = [...lines, ...marksInWords(this.marks)];
    if (this.worded === all.join("\n")) return;
    this.worded = all.join("\n");
    this.words.replaceChildren(...all.map((text) => h("li", {}, text)));
  }

  /** Save what is seen, on the card's own ground, with the names of the tasks. */
  picture() {
    if (!this.chart) return;
    const from = this.chart.ctx.canvas, scale = devicePixelRatio, shown = this.names.filter((name) => !this.options.hidden.has(name)), canvas = document.createElement("canvas"), context = canvas.getContext("2d");
    const font = `600 ${13 * scale}px system-ui, sans-serif`, places = [];
    context.font = font;
    let x = 16 * scale, y = 24 * scale;
    for (const name of shown) {
      const room = context.measureText(name).width + 40 * scale;
      if (x + room > from.width && x > 16 * scale) { x = 16 * scale; y += 24 * scale; }
      places.push([name, x, y]);
      x += room;
    }
    const head = y + 16 * scale;
    Object.assign(canvas, { width: from.width, height: from.height + head });
    context.fillStyle = cssColor("--st-card");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.font = font;
    for (const [name, left, base] of places) {
      context.fillStyle = taskColor(name);
      traceShape(context, shapeOf(name), left + 5 * scale, base - 4 * scale, 5 * scale);
      context.fill();
      context.fillStyle = cssColor("--st-text");
      context.fillText(name, left + 16 * scale, base);
    }
    context.drawImage(from, 0, head);
    h("a", { href: canvas.toDataURL("image/png"), download: "loss.png" }).click();
  }
}
