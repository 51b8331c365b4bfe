// The parts of the run page that are not the chart.  Each function returns an element from one snapshot of the run.
const duration = (seconds) => {
  const s = Math.max(0, Math.round(seconds)), hours = Math.floor(s / 3600), minutes = Math.floor((s % 3600) / 60);
  return hours ? `${hours} h ${String(minutes).padStart(2, "0")} min` : minutes ? `${minutes} min ${String(s % 60).padStart(2, "0")} s` : `${s} s`;
};
const percent = (part, digits = 0) => (part === null || part === undefined ? "–" : `${(part * 100).toFixed(digits)} %`);

function progressCard(run) {
  const part = run.total ? run.step / run.total : 0;
  const left = run.remaining_s === null ? "" : ` · about ${duration(run.remaining_s)} left`;
  const bar = h("div.bar", { role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(Math.round(part * 100)) }, h("div.fill", { style: { width: `${part * 100}%` } }),
    run.total ? run.checkpoints.map((step) => h(step === run.best ? "i.ck.best" : "i.ck", { style: { left: `${(step / run.total) * 100}%` }, title: `Checkpoint at step ${step}` })) : []);
  const phase = run.phase && run.phase !== "training" ? h("span.phase", { role: "status" }, run.phase) : null;
  if (run.stages.length) return h("section.card.st-prog", {}, h("div.line", {}, h("h2", {}, "Before the first step"), phase), stageList(run));
  return h("section.card.st-prog", {}, h("div.line", {}, h("span.pct.num", {}, percent(part, 1)), h("span.num", {}, run.total ? `Step ${count(run.step)} of ${count(run.total)}` : "Not started yet"), phase, h("div.grow"),
    h("span.sub.num", {}, run.elapsed_s ? `${duration(run.elapsed_s)}${left}` : "")), bar,
    h("div.kpis", {}, run.stats.map((stat) => h("div.kpi", {}, h("div.l", {}, stat.label), h("div.v.num", {}, stat.value, stat.note ? h("small", {}, stat.note) : null)))));
}

function taskTable(run) {
  const titles = ["Task", "Base", "Now", "Change", "Train", "Loss share", "Supervised tokens"];
  const cell = (task) => {
    const better = task.change === null ? "" : task.change < -0.001 ? "down" : task.change > 0.001 ? "up" : "";
    return [h(better ? `td.n.${better}` : "td.n", {}, task.change === null ? "–" : `${task.change > 0 ? "+" : "−"}${Math.abs(task.change * 100).toFixed(1)} %`)];
  };
  const rows = run.tasks.map((task, i) => h("tr", {}, h("td", {}, h("span.who", {}, swatch(task.name), h("b", { translate: "no" }, task.name))), h("td.n", {}, fixed(task.base)), h("td.n", {}, fixed(task.eval)), ...cell(task),
    h("td.n", {}, fixed(task.train)), h("td.n", {}, percent(task.share)), h("td.n", {}, count(task.tokens))));
  return h("section.card.flush", {}, h("div.card-h", {}, h("h2", {}, "Tasks"), h("span.sub", {}, "held-out loss, nats per token")), h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Tasks" },
    stacking(h("table.tasks", {}, h("thead", {}, h("tr", {}, titles.map((title, i) => h(i ? "th.n" : "th", { scope: "col" }, title)))), h("tbody", {}, rows)))));
}

function failureCard(run) {
  const found = run.failure;
  if (!found) return null;
  const report = h("button.ibtn", { type: "button", onclick: async () => {
    const answer = await fetch(`/studio/api/report.txt?id=${encodeURIComponent(run.id)}`, { cache: "no-store" });
    await copy(await answer.text(), report);
  } }, "Copy for an issue report");
  const ways = found.ways.map((way, i) => h(`a.button${i ? "" : ".primary"}.way`, { href: way.href }, way.text));
  if (run.actions.resume) ways.push(h(`button.button${ways.length ? "" : ".primary"}`, { type: "button", onclick: () => act("resume") }, "Resume from the newest checkpoint"));
  ways.push(h("a.button", { href: `/new?from=${encodeURIComponent(run.id)}` }, "Change the recipe"));
  return h("section.card.failure", { role: "alert" },
    h("div.failure-h", {}, icon("triangle-alert"), h("div", {}, h("h2", {}, run.state === "lost" ? "The run was lost" : "The run failed"), h("p.cause", {}, rich(found.problem)))),
    h("p", {}, found.meaning), found.fix ? h("p.fix", {}, h("b", {}, "What to do:"), " ", rich(found.fix)) : null,
    h("div.ways", { role: "group", "aria-label": "Ways out" }, ways),
    h("details.last-lines", { open: true }, h("summary", {}, "The last lines of the log"), h("pre.st-log", { tabindex: "0", translate: "no", "aria-label": "The last lines of the log" }, run.log || "There is no log.")),
    h("div.chart-foot", {}, report));
}

const STAGE_TITLES = { libraries: "Libraries", model: "Model", data: "Data", load: "Load", base: "Base model" };

/** What happens before the first step, each with a bar: full, as far as it is known, moving where it is not, or empty. */
function stageList(run) {
  if (!run.stages.length) return null;
  return h("ol.stages", { "aria-label": "Before the first step" }, run.stages.map((stage) => h(`li.${stage.state}`, { "aria-current": stage.state === "now" ? "step" : null }, h("span", {}, STAGE_TITLES[stage.name]),
    h("span.stage-bar", { "aria-hidden": "true" }, h(stage.state === "now" && stage.share === null ? "i.moving" : "i", { style: { width: stage.state === "done" ? "100%" : stage.state === "later" ? "0%" : stage.share === null ? "35%" : `${100 * stage.share}%` } })),
    h("span.sub.num", {}, stage.state === "done" ? "done" : stage.state === "later" ? "" : stage.share === null ? "…" : percent(stage.share)))));
}

function warningCard(run) {
  if (!run.warning) return null;
  return h("section.card.warning", { role: "status", id: "run-warning" }, h("p", {}, rich(run.warning)), h("p.sub", {}, "Stop and save is above; nothing is lost by it."));
}

function eventList(run) {
  const lines = run.events.map((event) => h("div.ln", {}, h("span.ts", {}, event.time), h(`span.kind.${event.kind}`, {}, event.kind), h("span", {}, event.text)));
  return h("div.st-log", { role: "log", "aria-label": "Events", tabindex: "0" }, lines.length ? lines : h("p.sub", {}, "Nothing yet."));
}
