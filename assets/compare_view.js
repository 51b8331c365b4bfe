// The Compare page.  value: see studio/logic/compare.py.  One chart at a time: a task or the mean, over steps, tokens or time.
// What is chosen stands in the address.
const asked = new URL(location.href).searchParams;
const state = { task: asked.get("task") || "", kind: asked.get("curve") === "train" ? "train" : "eval", x: ["tokens", "time"].includes(asked.get("x")) ? asked.get("x") : "step", all: asked.get("settings") === "all" };
const keepChoice = () => keepAddress({ task: state.task, curve: state.kind === "eval" ? "" : state.kind, x: state.x === "step" ? "" : state.x, settings: state.all ? "all" : "" });
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [14, 4]]; // colours are not the only difference between runs
let plot = null, chart = null;

function draw(value) {
  if (!value.runs) { root().replaceChildren(h("section.card.empty.loading", { "aria-busy": "true" }, "Reading the runs …")); return; }
  learnLooks(value.tasks, value.colors);
  const notes = value.notes.map((text) => h("p.card.warning", { role: "status" }, text));
  if (!value.runs.length) { root().replaceChildren(...notes, h("section.card.empty", {}, h("p", {}, "Choose two runs or more in the list of runs."), h("a.button.primary", { href: "/runs" }, "All runs"))); return; }
  plot = h("div.st-plot", { role: "img", "aria-label": "Loss of each run" });
  const task = h("select", { "aria-label": "Task", onchange: () => { state.task = task.value; rebuild(value); } }, h("option", { value: "" }, "All tasks together"), value.tasks.map((name) => h("option", { value: name, translate: "no" }, name)));
  if (!value.tasks.includes(state.task)) state.task = "";
  task.value = state.task;
  root().replaceChildren(...notes, runList(value),
    h("section.card.chart", {}, h("div.card-h", {}, h("h2", {}, "Loss"), task, h("div.grow"), choice("Loss", "kind", [["eval", "Eval"], ["train", "Train"]], value), choice("Horizontal axis", "x", [["step", "Steps"], ["tokens", "Tokens"], ["time", "Time"]], value)), plot),
    taskTableOf(value), settings(value));
  rebuild(value);
}

const runColor = (i) => color(i);
const mark = (i) => { const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, text] of Object.entries({ width: "28", height: "8", viewBox: "0 0 28 8", "aria-hidden": "true", class: "run-mark" })) svg.setAttribute(name, text);
  for (const [name, text] of Object.entries({ x1: "1", y1: "4", x2: "27", y2: "4", "stroke-width": "2.5", "stroke-dasharray": DASHES[i].join(" ") })) path.setAttribute(name, text);
  path.style.stroke = runColor(i);
  svg.append(path);
  return svg; };

function runList(value) {
  const without = (i) => `/compare?runs=${value.runs.filter((_, at) => at !== i).map((run) => encodeURIComponent(run.id)).join(",")}`;
  return h("section.card", {}, h("ul.compared", {}, value.runs.map((run, i) => h("li", {}, mark(i), h("a", { href: `/run?id=${encodeURIComponent(run.id)}`, translate: "no" }, run.name), h(run.tone ? `span.pill.${run.tone}` : "span.pill", {}, h("i"), run.word),
    h("span.sub.grow", { translate: "no" }, run.id), h("a.ibtn", { href: without(i), "aria-label": `Take out: ${run.name}` }, "Take out")))));
}

function choice(label, key, choices, value) {
  const group = h("div.seg", { role: "group", "aria-label": label }, choices.map(([name, title]) => h("button", { type: "button", "aria-pressed": String(state[key] === name), onclick: (event) => {
    state[key] = name;
    for (const button of group.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
    rebuild(value);
  } }, title)));
  return group;
}

/** x of an evaluation: its own step, or what the nearest step before it had seen. */
function axisOf(run, steps) {
  if (state.x === "step") return steps;
  return steps.map((step) => { let at = 0; while (at + 1 < run.step.length && run.step[at + 1] <= step) at += 1; return step < (run.step[0] ?? 0) ? 0 : run[state.x][at] ?? 0; });
}

function rebuild(value) {
  keepChoice();
  if (chart) chart.destroy();
  plot.replaceChildren();
  const tables = value.runs.map((run) => { const steps = state.kind === "eval" ? run.eval_step : run.step; return [axisOf(run, steps), run[state.kind][state.task] || steps.map(() => null)]; });
  if (!tables.some(([, ys]) => ys.some((y) => y !== null))) { plot.replaceChildren(h("p.empty", {}, "None of these runs has such a curve.")); return; }
  const said = (x) => (state.x === "time" ? duration(x) : state.x === "tokens" ? brief(x) : count(x));
  const axis = { stroke: () => cssColor("--st-text-3"), font: "12px system-ui, sans-serif", grid: { stroke: () => cssColor("--st-grid"), width: 1 }, ticks: { show: false } };
  const tip = h("div.st-tip", { hidden: true });
  const data = uPlot.join(tables);
  chart = new uPlot({ width: plot.clientWidth || 700, height: 340, padding: [10, 26, 0, 0], legend: { show: false }, scales: { x: { time: false } },
    series: [{}, ...value.runs.map((_, i) => ({ stroke: () => cssColor(runColor(i).slice(4, -1)), width: 2, dash: DASHES[i], spanGaps: true, points: { show: state.kind === "eval", size: 6 } }))],
    axes: [{ ...axis, size: 30, space: 80, ...(state.x === "time" ? {} : { incrs: WHOLE_STEPS }), values: (_, ticks) => ticks.map(said) }, { ...axis, size: 48, values: (_, ticks) => ticks.map((tick) => tick.toFixed(2)) }],
    cursor: { drag: { x: true, y: false }, points: { show: false } }, hooks: { setCursor: [(u) => {
      if (u.cursor.left < 0 || u.cursor.idx === null) { tip.hidden = true; return; }
      const back = (ys) => { for (let i = u.cursor.idx; i >= 0; i -= 1) if (ys[i] !== null && ys[i] !== undefined) return ys[i]; return null; };
      tip.replaceChildren(h("div.h", {}, h("span", {}, said(data[0][u.cursor.idx]))), ...value.runs.map((run, i) => h("div.r.num", {}, h("span", {}, mark(i), h("span", { translate: "no" }, run.name)), h("span", {}, fixed(back(data[i + 1]))))));
      tip.hidden = false;
      tip.style.left = `${u.cursor.left + 16 + tip.offsetWidth > u.over.clientWidth ? Math.max(0, u.cursor.left - tip.offsetWidth - 16) : u.cursor.left + 16}px`;
      tip.style.top = `${Math.max(0, Math.min(u.cursor.top - 20, u.over.clientHeight - tip.offsetHeight))}px`;
    }] } }, data, plot);
  chart.over.append(tip);
  const xs = data[0], own = chart;
  touchable(own, (min, max) => own.setScale("x", { min: Math.max(xs[0], min), max: Math.min(xs.at(-1), max) }), () => {});
  plot.setAttribute("aria-label", `Loss of each run; the values stand in the table below. ${value.runs.map((run) => `${run.name} ${fixed(run.table[state.task]?.last)}`).join(", ")}`);
  new ResizeObserver(() => { if (plot.clientWidth && Math.abs(plot.clientWidth - chart.width) > 1) chart.setSize({ width: plot.clientWidth, height: 340 }); }).observe(plot);
}
new MutationObserver(() => chart && chart.redraw(false)).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });

function taskTableOf(value) {
  const best = (name) => Math.min(...value.runs.map((run) => run.table[name]?.best ?? Infinity));
  const cells = (run, name) => { const found = run.table[name]; return [h("td.n", {}, fixed(found?.base)), h(found && found.best === best(name) ? "td.n.down" : "td.n", {}, fixed(found?.best)), h("td.n", {}, fixed(found?.last))]; };
  const rows = ["", ...value.tasks].map((name) => h("tr", {}, h("th", { scope: "row" }, h("span.who", {}, name ? swatch(name) : null, name ? h("b", { translate: "no" }, name) : h("b", {}, "All tasks together"))), ...value.runs.flatMap((run) => cells(run, name))));
  return h("section.card.flush", {}, h("div.card-h", {}, h("h2", {}, "Held-out loss of every task"), h("span.sub", {}, "nats per token; the best is green")), h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Held-out loss of every task" },
    h("table.tasks.by-run", {}, h("thead", {}, h("tr", {}, h("td"), ...value.runs.map((run, i) => h("th.group", { scope: "colgroup", colSpan: 3 }, mark(i), " ", h("span", { translate: "no" }, run.name)))),
      h("tr", {}, h("th", { scope: "col" }, "Task"), ...value.runs.flatMap(() => ["Base", "Best", "Last"].map((title) => h("th.n", { scope: "col" }, title))))), h("tbody", {}, rows))));
}

function settings(value) {
  const body = h("tbody"), none = h("p.sub.none", { hidden: true }, "The recipes are the same.");
  const show = () => {
    const rows = value.settings.filter((row) => state.all || row.differs);
    none.hidden = rows.length > 0;
    table.hidden = !none.hidden;
    body.replaceChildren(...rows.map((row) => h(row.differs ? "tr.differs" : "tr", {}, h("th", { scope: "row", translate: "no" }, row.path), row.values.map((text) => h("td", { translate: "no" }, text)))));
  };
  const only = h("input", { type: "checkbox", checked: !state.all, onchange: () => { state.all = !only.checked; keepChoice(); show(); } });
  const table = h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Settings" },
    h("table.tasks.settings", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Setting"), value.runs.map((run, i) => h("th", { scope: "col" }, mark(i), " ", h("span", { translate: "no" }, run.name))))), body));
  show();
  return h("section.card.flush", {}, h("div.card-h", {}, h("h2", {}, "Settings"), h("div.grow"), h("label.check", {}, only, " Differences only")), none, table);
}
