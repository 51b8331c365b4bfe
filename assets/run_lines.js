// Small charts of the run as a whole: total loss, learning rate, gradient norm, throughput, memory.  One cursor for all.
const RUN_LINES = [["total", "Total loss", (value) => fixed(value)], ["learning_rate", "Learning rate", (value) => value.toExponential(2)], ["grad_norm", "Gradient norm", (value) => value.toPrecision(3)],
  ["speed", "Tokens per second", (value) => brief(value)], ["memory", "Memory", (value) => `${(value / 2 ** 30).toFixed(1)} GiB`]];

class RunLines {
  constructor() {
    this.cells = RUN_LINES.map(([key, title, said]) => ({ key, said, value: h("b.num"), plot: h("div.mini", { role: "img" }), title }));
    this.node = h("section.card", {}, h("div.card-h", {}, h("h2", {}, "The run as a whole")),
      h("div.minis", {}, this.cells.map((cell) => h("div", {}, h("div.mini-h", {}, h("span", {}, cell.title), cell.value), cell.plot))));
    new MutationObserver(() => this.cells.forEach((cell) => cell.chart && cell.chart.redraw(false))).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  }

  show(curves) {
    this.node.hidden = !curves.step.length;
    if (this.node.hidden) return;
    for (const cell of this.cells) {
      const values = curves.run[cell.key];
      if (!cell.chart && cell.plot.clientWidth) this.build(cell);
      if (cell.chart) cell.chart.setData([curves.step, values]);
      this.say(cell, curves, values.length - 1);
      cell.plot.setAttribute("aria-label", `${cell.title}, now ${cell.value.textContent}`);
    }
    this.curves = curves;
  }

  say(cell, curves, index) {
    const value = curves.run[cell.key][index];
    cell.value.textContent = value === null || value === undefined ? "–" : cell.said(value);
  }

  build(cell) {
    const axis = { stroke: () => cssColor("--st-text-3"), font: "11px system-ui, sans-serif", grid: { stroke: () => cssColor("--st-grid"), width: 1 }, ticks: { show: false } };
    cell.chart = new uPlot({ width: cell.plot.clientWidth, height: 110, padding: [6, 6, 0, 0], legend: { show: false }, scales: { x: { time: false } },
      series: [{}, { stroke: () => cssColor("--st-accent"), width: 1.5, spanGaps: true, points: { show: (u) => u.data[0].length < 3 } }],
      axes: [{ ...axis, size: 22, space: 60, incrs: WHOLE_STEPS }, { ...axis, size: 44, space: 30, values: (_, ticks) => ticks.map((tick) => (cell.key === "memory" ? (tick / 2 ** 30).toFixed(1) : cell.key === "learning_rate" ? tick.toExponential(0) : brief(tick))) }],
      cursor: { sync: { key: "run-lines" }, drag: { x: false, y: false }, y: false, points: { size: 6 } },
      hooks: { setCursor: [(u) => this.curves && this.say(cell, this.curves, u.cursor.idx ?? this.curves.step.length - 1)] } }, [[], []], cell.plot);
    new ResizeObserver(() => { const width = cell.plot.clientWidth; if (width && Math.abs(width - cell.chart.width) > 1) cell.chart.setSize({ width, height: 110 }); }).observe(cell.plot);
  }
}
