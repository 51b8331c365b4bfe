// Tasks & mix on the New run page.  value: {tasks: [TaskChoice], uses_weights, strategy}, or {loading}
// While a slider is dragged the server hears of it a few times a second (`input`), so the preview below follows.
const TELL_MS = 160;
let waiting = null;

function draw(value) {
  const tasks = value.tasks || [];
  if (!tasks.length && value.loading) { root().replaceChildren(h("p.empty.loading", { "aria-busy": "true" }, "Reading the tasks …")); return; }
  if (!tasks.length) {
    root().replaceChildren(h("p.empty", {}, "No tasks yet. ", h("a", { href: "/datasets" }, "Add task files"), " first."));
    return;
  }
  const presets = h("div.seg", { role: "group", "aria-label": "Weights" },
    h("button", { type: "button", onclick: () => setWeights(() => 1) }, "Equal"),
    h("button", { type: "button", title: "In proportion to the number of examples", onclick: () => setWeights(natural()) }, "Natural"));
  root().replaceChildren(
    h("div.mix-head", {}, h("span.sub.grow", {}, value.uses_weights ? "The weight is a task's share of the loss; how often it is seen is chosen above."
      : "With this reduction every token or example counts the same: weights are not used."), value.uses_weights ? presets : null),
    h(custom(value) ? "div.mix.custom" : "div.mix", { role: "group", "aria-label": "Tasks" }, mixHead(value), ...tasks.map((task, index) => line(task, index, value))));
  recompute();
}

const custom = (value) => value.strategy === "custom";

const mixHead = (value) => h("div.mix-row.mix-titles", { "aria-hidden": "true" }, h("span"), h("span", {}, "Task"), h("span.n", {}, "Examples"),
  custom(value) ? h("span", {}, "How often") : null, custom(value) ? h("span") : null,
  h("span", {}, value.uses_weights ? "Loss weight" : ""), h("span"));

function line(task, index, value) {
  const box = h("input", { type: "checkbox", "aria-label": `Use ${task.name}`, checked: task.checked, disabled: Boolean(task.problem) });
  box.addEventListener("change", () => change(index, { checked: box.checked }, true));
  const words = task.problem ? h("span.why.bad", {}, task.problem) : h("span.why", {}, [task.kind === "sample" ? "sample" : "", task.eval_path ? "held-out file" : "", task.columns ? "columns named" : ""].filter(Boolean).join(", "));
  return h("div.mix-row", { "data-name": task.name }, h("label.tick", {}, box), h("div.who", {}, h("span.sw"), h("b", { translate: "no" }, task.name), words, task.problem ? null : limits(task, index)),
    h("span.n.num", {}, count(task.num_used)),
    ...(custom(value) ? control(task, index, "mixing_weight", `How often ${task.name} is seen`) : []),
    ...(value.uses_weights ? control(task, index, "weight", `Weight of ${task.name}`) : [h("span"), h("span")]));
}

/** How much of a task is used at most; folded away, with what is set in its title. */
function limits(task, index) {
  const told = (one) => [one.max_samples ? `at most ${count(one.max_samples)} examples` : "", one.max_epochs ? `at most ${one.max_epochs} epochs` : ""].filter(Boolean);
  const title = h("summary", { "aria-label": `Limits of ${task.name}` });
  const show = (one) => { const parts = told(one); title.replaceChildren(...(parts.length ? parts : ["Limits"]).map((text) => h("span", {}, text))); };
  const field = (key, label, step, min) => {
    const input = h("input.weight-number", { type: "number", min, step, placeholder: "all", "aria-label": `${label}, ${task.name}` });
    input.value = task[key] ?? "";
    input.addEventListener("change", () => { change(index, { [key]: input.value.trim() === "" ? null : Number(input.value) }, true); show(props.value.tasks[index]); });
    return h("label", {}, h("span", {}, label), input);
  };
  show(task);
  return h("details.limits", {}, title, field("max_samples", "At most so many examples", "1", "1"), field("max_epochs", "At most so many epochs", "any", "0"));
}

/** A slider and a number that hold the same value. */
function control(task, index, key, label) {
  const slider = h("input.weight", { type: "range", min: "0", max: String(top(task[key])), step: "0.05", "aria-label": label });
  slider.value = task[key];
  const number = h("input.weight-number", { type: "number", min: "0", max: "1000", step: "any", "aria-label": `${label}, number` });
  number.value = task[key];
  const paint = () => slider.style.setProperty("--part", `${(100 * Number(slider.value)) / Number(slider.max)}%`);
  slider.addEventListener("input", () => { number.value = slider.value; paint(); change(index, { [key]: Number(slider.value) }, false); });
  slider.addEventListener("change", () => change(index, { [key]: Number(slider.value) }, true));
  number.addEventListener("change", () => {
    const amount = number.value.trim() === "" ? "" : Number(number.value);
    slider.max = String(top(amount)); slider.value = amount; paint();
    change(index, { [key]: amount }, true);
  });
  paint();
  return [slider, number];
}

const top = (weight) => Math.max(4, Math.ceil(Number(weight || 0) * 2));

function change(index, patch, commit) {
  const tasks = (props.value.tasks || []).map((task, at) => (at === index ? { ...task, ...patch } : task));
  clearTimeout(waiting);
  waiting = null;
  if (commit) tell("input", { tasks });
  else {
    const value = { ...props.value, tasks };
    drawn = JSON.stringify(value);
    props.value = value;
    waiting = setTimeout(() => trigger("input"), TELL_MS);
  }
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
  const { tasks } = props.value;
  const chosen = tasks.filter((task) => task.checked);
  root().querySelectorAll(".mix-row[data-name]").forEach((row, index) => {
    const place = chosen.indexOf(tasks[index]);
    row.classList.toggle("off", place < 0);
    const sign = row.querySelector(".sw");
    sign.className = `sw ${shapeOf(tasks[index].name)}`;
    sign.style.background = place < 0 ? "" : color(tasks[index].name);
    row.style.setProperty("--task", place < 0 ? "var(--st-text-3)" : color(tasks[index].name));
    row.querySelectorAll(".weight, .weight-number").forEach((input) => { input.disabled = place < 0; });
  });
}
