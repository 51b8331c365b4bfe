// Tasks & mix on the New run page.  value: {tasks: [TaskChoice], uses_weights, samples_note}
// Bars move while a slider is dragged; the server hears of it when it is let go (`input`).
function draw(value) {
  const tasks = value.tasks || [];
  if (!tasks.length) {
    root().replaceChildren(h("p.empty", {}, "No tasks yet. ", h("a", { href: "/datasets" }, "Add task files"), " first."));
    return;
  }
  const presets = h("div.seg", { role: "group", "aria-label": "Weights" },
    h("button", { type: "button", onclick: () => setWeights(() => 1) }, "Equal"),
    h("button", { type: "button", title: "In proportion to the number of examples", onclick: () => setWeights(natural()) }, "Natural"));
  root().replaceChildren(
    h("div.mix-head", {}, h("span.sub.grow", {}, value.uses_weights ? "A task's weight is its share of the loss, whatever its size."
      : "With reduction token_mean every token counts the same: weights are not used."), value.uses_weights ? presets : null),
    h("div.mix", { role: "group", "aria-label": "Tasks" }, mixHead(value), ...tasks.map((task, index) => line(task, index, value))),
    bars());
  recompute();
}

const mixHead = (value) => h("div.mix-row.mix-titles", { "aria-hidden": "true" }, h("span"), h("span", {}, "Task"), h("span.n", {}, "Examples"),
  h("span", {}, value.uses_weights ? "Weight" : ""), h("span"), h("span.n", {}, "Loss share"));

const bars = () => h("div.shares", {}, ...[["rows", "Share of examples"], ["loss", "Share of the loss"]].map(([kind, title]) =>
  h("div.share", {}, h("span.sub", {}, title), h(`div.stack.${kind}`, { role: "img" }))));

function line(task, index, value) {
  const name = `Task ${task.name}`;
  const box = h("input", { type: "checkbox", "aria-label": `Use ${task.name}`, checked: task.checked, disabled: Boolean(task.problem) });
  box.addEventListener("change", () => change(index, { checked: box.checked }, true));
  const slider = h("input.weight", { type: "range", min: "0", max: String(top(task.weight)), step: "0.05", "aria-label": `Weight of ${task.name}` });
  slider.value = task.weight;
  const number = h("input.weight-number", { type: "number", min: "0", max: "1000", step: "any", "aria-label": `Weight of ${task.name}, number` });
  number.value = task.weight;
  slider.addEventListener("input", () => { number.value = slider.value; change(index, { weight: Number(slider.value) }, false); });
  slider.addEventListener("change", () => change(index, { weight: Number(slider.value) }, true));
  number.addEventListener("change", () => {
    const weight = number.value.trim() === "" ? "" : Number(number.value);
    slider.max = String(top(weight)); slider.value = weight;
    change(index, { weight }, true);
  });
  const words = task.problem ? h("span.why.bad", {}, task.problem) : h("span.why", {}, [task.kind === "sample" ? "sample" : "", task.eval_path ? "held-out file" : "", task.max_samples ? `at most ${count(task.max_samples)}` : ""].filter(Boolean).join(", "));
  return h("div.mix-row", { "data-name": task.name }, h("label.tick", {}, box), h("div.who", {}, h("span.sw"), h("b", {}, task.name), words),
    h("span.n.num", {}, count(task.num_used)), value.uses_weights ? slider : h("span"), value.uses_weights ? number : h("span"), h("output.n.num", { "aria-label": `${name}, share of the loss` }));
}

const top = (weight) => Math.max(4, Math.ceil(Number(weight || 0) * 2));

function change(index, patch, commit) {
  const tasks = (props.value.tasks || []).map((task, at) => (at === index ? { ...task, ...patch } : task));
  if (commit) tell("input", { tasks });
  else { const value = { ...props.value, tasks }; drawn = JSON.stringify(value); props.value = value; }
  recompute();
}

function setWeights(weightOf) {
  const tasks = props.value.tasks.map((task) => (task.checked ? { ...task, weight: weightOf(task) } : task));
  tell("input", { tasks });
  drawn = null;
  redraw();
}

function natural() {
  const chosen = props.value.tasks.filter((task) => task.checked);
  const total = chosen.reduce((sum, task) => sum + task.num_used, 0) || 1;
  return (task) => Math.round((task.num_used * chosen.length * 1000) / total) / 1000;
}

function recompute() {
  const { tasks, uses_weights } = props.value;
  const chosen = tasks.filter((task) => task.checked);
  const weight = (task) => Math.max(0, Number(uses_weights ? task.weight : task.num_used) || 0);
  const loss = chosen.reduce((sum, task) => sum + weight(task), 0);
  const rows = chosen.reduce((sum, task) => sum + task.num_used, 0);
  root().querySelectorAll(".mix-row[data-name]").forEach((row, index) => {
    const task = tasks[index], place = chosen.indexOf(task);
    row.classList.toggle("off", place < 0);
    row.querySelector(".sw").style.background = place < 0 ? "transparent" : color(place);
    row.style.setProperty("--task", place < 0 ? "var(--st-text-3)" : color(place));
    row.querySelectorAll(".weight, .weight-number").forEach((input) => { input.disabled = place < 0; });
    const slider = row.querySelector(".weight");
    if (slider) slider.style.setProperty("--part", `${(100 * Number(slider.value)) / Number(slider.max)}%`);
    row.querySelector("output").textContent = place < 0 || !uses_weights ? (place < 0 ? "" : "–") : percent(weight(task), loss);
  });
  stack(".rows", chosen, (task) => task.num_used, rows);
  stack(".loss", chosen, weight, uses_weights ? loss : 0);
}

const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(part / whole < 0.1 ? 1 : 0)} %` : "–");

function stack(kind, chosen, of, whole) {
  const bar = root().querySelector(`.stack${kind}`);
  const parts = chosen.map((task, place) => {
    const share = whole ? of(task) / whole : 0;
    return h("span", { title: `${task.name}: ${percent(of(task), whole)}`, style: { background: color(place), width: `${100 * share}%` } });
  });
  bar.setAttribute("aria-label", chosen.map((task) => `${task.name} ${percent(of(task), whole)}`).join(", ") || "no task chosen");
  bar.replaceChildren(...parts);
}
