// What the run will do with its tasks, on the New run page.  value: see studio/logic/mix.py
function draw(value) {
  const tasks = value.tasks || [];
  if (!tasks.length) { root().replaceChildren(value.text ? h("p.sub", {}, value.text) : ""); return; }
  const whole = (of) => tasks.reduce((sum, task) => sum + (of(task) || 0), 0);
  const bars = [["Rows", (t) => t.rows], ["Tokens", (t) => t.tokens], ["Supervised tokens", (t) => t.supervised_tokens], ["Share of the loss", (t) => t.loss_share]];
  const head = h("tr", {}, h("th", { scope: "col" }, "In this run"), ...["Rows", "Epochs", "Tokens", "Length p50 / p95", "Loss share"].map((title) => h("th.n", { scope: "col" }, title)));
  const rows = tasks.map((task, index) => h("tr", { "data-name": task.name },
    h("th", { scope: "row" }, swatch(task.name), h("span", {}, task.name)),
    h("td.n.num", {}, count(task.rows), h("span.sub", {}, ` ${share(task.share)}`)),
    h(task.repeats_often ? "td.n.num.often" : "td.n.num", { title: task.repeats_often ? "Seen so often, repeated data stop helping" : "" }, task.repeats_often ? `repeats ${task.epochs.toFixed(1)}×` : task.epochs.toFixed(2)),
    h("td.n.num", {}, task.tokens === null ? "–" : short(task.tokens)),
    h("td.n.num", {}, task.lengths ? `${task.lengths[0]} / ${task.lengths[1]}` : "–"),
    h("td.n.num", {}, share(task.loss_share))));
  root().replaceChildren(
    h("div.shares", {}, ...bars.filter(([, of]) => whole(of)).map(([title, of]) => bar(title, tasks, of, whole(of)))),
    h("div.preview-scroll", { tabindex: "0", role: "region", "aria-label": "The mixture in numbers" }, h("table.preview", {}, h("thead", {}, head), h("tbody", {}, ...rows))),
    value.text ? h("p.sub.measuring", { role: "status" }, value.text) : "",
    (value.facts || []).length ? h("dl.preview-facts", {}, value.facts.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd.num", {}, text)))) : "",
    (value.notes || []).length ? h("ul.notes", { "aria-label": "Remarks about the tasks" }, ...value.notes.map((text) => h("li", {}, h("span.mark", { "aria-hidden": "true" }, "i"), h("span", {}, rich(text))))) : "");
}

const share = (part) => `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;
const short = (number) => (number < 1e4 ? count(number) : number < 1e6 ? `${(number / 1e3).toFixed(0)} K` : number < 1e9 ? `${(number / 1e6).toFixed(1)} M` : `${(number / 1e9).toFixed(2)} G`);

function bar(title, tasks, of, whole) {
  const said = tasks.map((task) => `${task.name} ${share((of(task) || 0) / whole)}`).join(", ");
  return h("div.share", {}, h("span.sub", {}, title), h("div.stack", { role: "img", "aria-label": `${title}: ${said}` },
    ...tasks.map((task, index) => h("span", { title: `${task.name}: ${share((of(task) || 0) / whole)}`, style: { background: filling(task.name), width: `${(100 * (of(task) || 0)) / whole}%` } }))));
}
