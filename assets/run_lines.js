// Small charts of the run as a whole: total loss, learning rate, gradient norm, throughput, memory, how busy GPUs and CPU
// are.  They follow the axis and the zoom of the loss chart; one cursor for all.  A chart per label, a line per GPU.
const MINI_HEIGHT = 110;
const GPU_DASHES = [[], [6, 3], [2, 3], [10, 3, 2, 3]];

const lineSaid = { bytes: (value) => `${(value / 2 ** 30).toFixed(1)} GiB`, "%": (value) => `${value.toFixed(0)} %`, rate: (value) => value.toExponential(2), loss: (value) => fixed(value), "": (value) => `${+value.toPrecision(3)}`, "tokens/s": (value) => brief(value) };
const lineTick = { bytes: (value) => `${+(value / 2 ** 30).toFixed(2)}`, "%": (value) => value, rate: (value) => (value ? (+value.toPrecision(3)).toExponential() : "0") };
const GIB_STEPS = [0.01, 0.1, 1, 10, 100, 1000].flatMap((power) => [power, 2 * power, 5 * power]).map((gib) => gib * 2 ** 30);
const kindOf = (key) => (key.key === "optim/learning_rate" ? "rate" : key.key === "train/loss" ? "loss" : key.unit in lineSaid ? key.unit : "");
const titleOf = (key) => (key.key === "train/loss" ? "Total loss" : key.key === "perf/tokens_per_second" ? "Tokens per second" : key.label);

class RunLines {
  constructor() {
    this.cells = new Map();
    this.minis = h("div.minis");
    this.node = h("section.card", { hidden: true }, h("div.card-h", {}, h("h2", {}, "The run as a whole")), this.minis);
    this.seen = false;
    new IntersectionObserver(([entry]) => { this.seen = entry.isIntersecting; if (this.seen && this.last) this.show(...this.last); }).observe(this.node); // drawn where people look
    new MutationObserver(() => this.cells.forEach((cell) => cell.chart && cell.chart.redraw(false))).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  }

  /** table: curves of the run; keys: what each is, {key, label, unit, gpu}; view: {axis, origin, zoom, place}. */
  show(table, keys, view) {
    this.node.hidden = !table.step.length;
    this.last = [table, keys, view];
    this.view = view;
    if (this.node.hidden) return;
    const groups = new Map();
    keys.forEach((key, i) => { if (lastNumber(table.values[i]) !== null || !key.gpu) groups.set(titleOf(key), [...(groups.get(titleOf(key)) || []), [key, i]]); });
    const xs = xsOf(table, view.axis, view.origin);
    for (const [title, members] of groups) {
      const cell = this.cell(title, members.map(([key]) => key));
      cell.data = this.rows(xs, members.map(([, i]) => table.values[i]));
      const isNew = !cell.chart && cell.plot.clientWidth > 0;
      if (isNew) this.build(cell);
      if (cell.chart && (isNew || this.seen)) {
        cell.chart.setData(cell.data, !view.zoom); // without a zoom the levels follow, even where the steps stay
        const [min, max] = view.zoom ? [view.zoom.min, view.zoom.max] : [cell.data[0][0] ?? 0, Math.max(cell.data[0].at(-1) ?? 1, (cell.data[0][0] ?? 0) + 1)];
        cell.chart.setScale("x", { min, max });
      }
      this.say(cell, cell.data[0].length - 1);
      cell.plot.setAttribute("aria-label", `${said(cell.title)}, now ${cell.value.textContent}`);
    }
  }

  /** The rows in which any of the series has a number: thinned series have few in common with the others. */
  rows(xs, columns) {
    const kept = xs.map((_, i) => i).filter((i) => columns.some((values) => isNumber(values[i])));
    return [kept.map((i) => xs[i]), ...columns.map((values) => kept.map((i) => values[i]))];
  }

  cell(title, keys) {
    const known = this.cells.get(title);
    if (known && known.keys.length === keys.length) return known;
    if (known) known.node.remove();
    const cell = { title, keys, kind: kindOf(keys[0]), value: h("b.num"), plot: h("div.mini", { role: "img" }), data: [[]] };
    cell.node = h("div", {}, h("div.mini-h", {}, h("span", {}, title), cell.value), cell.plot);
    this.cells.set(title, cell);
    this.minis.append(cell.node);
    return cell;
  }

  say(cell, index) {
    const values = cell.data.slice(1).map((column) => lastNumber(column.slice(0, index + 1)));
    const texts = values.map((value) => (value === null ? "–" : lineSaid[cell.kind](value)));
    cell.value.textContent = texts.map((text, i) => (i + 1 < texts.length ? text.replace(/ (GiB|%)$/, "") : text)).join(" · "); // the unit once
  }

  build(cell) {
    const axis = { stroke: () => cssColor("--st-text-3"), font: "11px system-ui, sans-serif", grid: { stroke: () => cssColor("--st-grid"), width: 1 }, ticks: { show: false } };
    const tick = lineTick[cell.kind] || brief;
    cell.chart = new uPlot({ width: cell.plot.clientWidth, height: MINI_HEIGHT, padding: [6, 24, 0, 0], legend: { show: false }, scales: { x: { time: false }, y: cell.kind === "%" ? { range: [0, 100] } : {} },
      series: [{}, ...cell.keys.map((_, i) => ({ stroke: () => cssColor("--st-accent"), width: 1.5, dash: GPU_DASHES[i % GPU_DASHES.length], spanGaps: true, points: { show: (u) => u.data[0].length < 3 } }))],
      axes: [{ ...axis, size: 22, space: 70, values: (_, ticks) => ticks.map((x) => this.view.place(x)) }, { ...axis, size: 50, space: 30, ...(cell.kind === "bytes" ? { incrs: GIB_STEPS } : {}), values: (_, ticks) => ticks.map(tick) }],
      cursor: { sync: { key: "run-lines", scales: ["x", null] }, drag: { x: false, y: false }, y: false, points: { size: 6 } },
      hooks: { setCursor: [(u) => this.say(cell, u.cursor.idx ?? cell.data[0].length - 1)] } }, cell.data, cell.plot);
    touchable(cell.chart);
    new ResizeObserver(() => { const width = cell.plot.clientWidth; if (width && Math.abs(width - cell.chart.width) > 1) cell.chart.setSize({ width, height: MINI_HEIGHT }); }).observe(cell.plot);
  }
}
