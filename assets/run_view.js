// The run page: polls the run's JSON, keeps the curves, draws the parts.  Pauses while the tab is hidden.
const runId = new URL(location.href).searchParams.get("id") || "";
const chart = new LossChart({ csv: `/studio/api/metrics.csv?id=${encodeURIComponent(runId)}`, detail: askDetail });
const machine = new RunLines();
const slots = { head: h("div"), failure: h("div"), progress: h("div"), tasks: h("div"), balance: h("div"), events: h("div"), saved: h("div"), config: h("div") };
const logTail = new LogTail(runId, `/studio/api/log.txt?id=${encodeURIComponent(runId)}`);
const samples = new SamplesTab(runId);
const EVENTS_KEPT = 200;
const shownIn = new WeakMap(); // slot -> what it was drawn from
let headShows = "";
let known = null, curves = null, failures = 0, busy = "";
chart.onview = () => { if (curves) drawLines(); };

function draw() {
  if (!root().childElementCount) layout();
}

/** The tabs: name in the address (?tab=), title, what stands in it. */
const TABS = [
  ["curves", "Curves", () => [chart.node, slots.tasks, machine.node]],
  ["balance", "Balance", () => [slots.balance]],
  ["samples", "Samples", () => [samples.node]],
  ["log", "Log", () => [logTail.node, slots.events]],
  ["config", "Config", () => [slots.config]],
  ["checkpoints", "Checkpoints", () => [slots.saved]],
];

function layout() {
  if (!runId) { root().replaceChildren(h("p.card.empty", {}, "No run was chosen. ", h("a", { href: "/runs" }, "All runs"))); return; }
  root().classList.add("waiting");
  root().replaceChildren(slots.head, slots.failure, slots.progress, ...tabs("Parts of the run", TABS));
  slots.head.replaceChildren(h("p.card.empty", {}, "Reading the run …"));
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible") poll(); });
  for (const kind of ["click", "keyup"]) root().querySelector('[role="tablist"]').addEventListener(kind, () => { if (known) drawHidden(); });
  poll();
}

function act(action, more = {}) {
  busy = action;
  head(known);
  tell("submit", { id: runId, action, ...more, nonce: Date.now() });
  setTimeout(() => { busy = ""; if (known) head(known); }, 2500);
}

function head(run) {
  const shows = [run.name, run.state, run.word, run.meta, run.actions, busy, failures > 2, notifies(), window.Notification?.permission];
  if (headShows === (headShows = JSON.stringify(shows))) return; // a button that has the focus keeps it
  const can = run.actions;
  const button = (action, text, extra = "") => (can[action] ? h(`button.button${extra}`, { type: "button", id: `run-${action}`, disabled: busy !== "", onclick: () => act(action) }, text) : null);
  const stop = can.stop ? h("button.button.danger", { type: "button", id: "run-stop", disabled: busy !== "", onclick: async () => { if (await ask({ title: "Stop this run?", body: "It ends after the current step and writes a checkpoint. You can resume it later.", go: "Stop and save" })) act("stop"); } }, "Stop and save") : null;
  const cancel = run.state === "stopping" ? h("button.button.danger", { type: "button", id: "run-cancel", onclick: async () => { if (await ask({ title: "End it now?", body: "The processes are ended at once. Steps since the last checkpoint are lost.", go: "End now", keep: "Wait" })) act("cancel"); } }, "End now") : null;
  const leave = can.leave ? h("button.button.danger", { type: "button", id: "run-leave", disabled: busy !== "", onclick: () => act("cancel") }, "Leave the queue") : null;
  const link = (page, text, extra) => (can.use ? h(`a.button${extra}`, { href: `/${page}?run=${encodeURIComponent(run.id)}`, id: `run-${page}` }, text) : null);
  const over = run.state === "finished" || run.state === "stopped";
  const alive = ["preparing", "running", "stopping"].includes(run.state) || can.leave;
  slots.head.replaceChildren(h("div.run-head", {}, h("div.st-run", {}, h("div.title", {}, h("h1", { translate: "no" }, run.name), h(`span.pill${run.tone ? `.${run.tone}` : ""}${run.state === "running" ? ".live" : ""}`, { role: "status", id: "run-state" }, h("i"), failures > 2 ? "Reconnecting …" : run.word)),
    h("div.meta", {}, run.meta.map(([name, text]) => h("span", {}, name, " ", h("b", name === "Model" ? { translate: "no" } : {}, text))), alive ? h("span.calm", {}, "You can close this page: the run goes on.") : null)),
    h("div.actions", {}, [button("first", "Run next"), leave, button("save", "Checkpoint now"), button("resume", "Resume"), button("start", "Start"), over && can.use ? h("a.button", { href: `/new?continue=${encodeURIComponent(run.id)}`, id: "run-continue" }, "Train further") : null, link("export", "Merge", ""), link("evaluate", "Evaluate", ""), link("chat", over ? "Chat with it" : "Chat", over ? ".primary" : ""), alive ? notifyButton(() => head(known)) : null, stop, cancel].filter(Boolean))));
}

/** Put what is new behind what is there; then the run holds all of it. */
function merge(run) {
  const before = run.reset || !curves ? { marks: [], events: [], balance: null } : curves;
  curves = { train: joined(before.train, run.train), run: joined(before.run, run.run), evals: joined(before.evals, run.eval), keys: run.run_keys, marks: [...before.marks, ...run.marks], events: [...before.events, ...run.events].slice(-EVENTS_KEPT), balance: run.balance || before.balance };
  run.events = curves.events;
}

async function askDetail(axis, low, high) {
  try {
    const answer = await fetch(`/studio/api/detail.json?${new URLSearchParams({ id: runId, axis, low, high })}`, { cache: "no-store" });
    const part = await answer.json();
    return part.missing ? null : part;
  } catch (error) { return null; } // the coarser points stay
}

function drawLines() {
  const part = chart.zoom && chart.part;
  machine.show(part ? part.run : curves.run, curves.keys, { axis: chart.options.x, origin: chart.origin || 0, zoom: chart.zoom, place: (x) => chart.place(x) });
}

/** Parts in tabs that are closed are drawn when they are opened. */
function drawHidden() {
  const open = (slot) => !slot.closest("[hidden]");
  if (open(slots.balance)) replaceIfChanged(slots.balance, [curves.balance, known.forgot], () => balanceTab({ ...curves.balance, forgot: known.forgot }));
  if (open(slots.events)) replaceIfChanged(slots.events, [curves.events.length, curves.events.at(-1)], () => h("section.card", {}, h("div.card-h", {}, h("h2", {}, "Events")), eventList(known)));
}

function show(run) {
  root().classList.remove("waiting");
  learnLooks(run.tasks.map((task) => task.name), run.tasks.map((task) => task.color));
  merge(run);
  notifyOf(known, run);
  known = run;
  head(run);
  const failure = failureCard(run) || warningCard(run);
  replaceIfChanged(slots.failure, [run.failure, run.warning, run.log, run.actions.resume], () => failure);
  slots.progress.replaceChildren(progressCard(run));
  chart.show({ train: curves.train, run: curves.run, evals: curves.evals, names: run.tasks.map((task) => task.name), marks: marksOf(run), reset: run.reset });
  drawLines();
  replaceIfChanged(slots.tasks, [run.tasks], () => taskTable(run));
  drawHidden();
  replaceIfChanged(slots.saved, [run.saved], () => checkpointTable(run, act));
  if (run.config) slots.config.replaceChildren(h("section.card", {}, copyBlock("The same run in a terminal", run.config.command), copyBlock("Recipe", run.config.yaml), copyBlock("What is started", run.config.launch), copyBlock("accelerate.yaml", run.config.accelerate), ...(run.config.machines ? [copyBlock("On the other machines, when it starts", run.config.machines)] : []), copyBlock("Run directory", run.config.path), h("a.button", { href: `/new?from=${encodeURIComponent(run.id)}` }, "Open as a new recipe")));
  document.title = `${run.total ? `${Math.floor((run.step / run.total) * 100)} % · ` : ""}${run.name}`;
}

/** Put a part in place anew only if what it shows is new: focus, selection and scrolling stay. */
function replaceIfChanged(slot, value, build) {
  const text = JSON.stringify(value);
  if (shownIn.get(slot) === text) return;
  shownIn.set(slot, text);
  const node = build();
  slot.replaceChildren(...(node ? [node] : []));
  for (const log of slot.querySelectorAll(".st-log")) log.scrollTop = log.scrollHeight;
}

/** What happened, with the best evaluation. */
const marksOf = (run) => (run.best ? [...curves.marks, { step: run.best, kind: "best", text: "" }] : curves.marks);

let timer = null;
async function poll() {
  clearTimeout(timer);
  if (document.visibilityState === "visible" || notifies()) {
    try {
      const query = new URLSearchParams({ id: runId, cursor: known ? known.cursor : "" });
      const answer = await fetch(`/studio/api/run.json?${query}`, { cache: "no-store" });
      const run = await answer.json();
      if (run.missing) { root().replaceChildren(h("p.card.empty", {}, run.missing, " ", h("a", { href: "/runs" }, "All runs"))); return; }
      failures = 0;
      const begin = performance.now();
      show(run);
      await null; // the charts are drawn in a microtask
      performance.clearMeasures("run-update");
      performance.measure("run-update", { start: begin }); // read by benchmarks/charts.py
      await logTail.poll();
      await samples.poll(run);
    } catch (error) {
      failures += 1;
      if (known) head(known);
    }
  }
  const over = known && ["finished", "stopped", "failed", "lost"].includes(known.state);
  timer = setTimeout(poll, Math.min((over ? 5000 : 2000) * 2 ** Math.min(failures, 3), 15000));
}
