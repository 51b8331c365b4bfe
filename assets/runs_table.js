// All runs.  value: {runs: [RunLine], chosen}; see studio/logic/runs.py
function confirmDelete(run) {
  const dialog = h("dialog.st-dlg", { "aria-labelledby": "dlg-title" }, h("h3", { id: "dlg-title" }, "Delete this run?"),
    h("p", {}, `${run.name} (${run.id}) goes to the trash folder of the data root.`),
    h("div.row", {}, h("button", { type: "button", onclick: () => dialog.close("") }, "Keep it"), h("button.go", { type: "button", onclick: () => dialog.close("go") }, "Delete")));
  dialog.addEventListener("close", () => { const go = dialog.returnValue === "go"; dialog.remove(); if (go) tell("delete", { chosen: run.id }); });
  document.body.append(dialog);
  dialog.showModal();
}

function line(run) {
  const tasks = h("span.dots", { title: run.tasks.join(", ") }, run.tasks.map((_, index) => h("i.sw", { style: { background: color(index) } })));
  const alive = ["preparing", "running", "stopping"].includes(run.state) || run.waiting !== "";
  return h("tr", {}, h("td", {}, h(run.tone ? `span.pill.${run.tone}` : "span.pill", {}, h("i"), run.word), run.waiting ? h("span.why", {}, run.waiting) : null),
    h("td.name", {}, h("a.link", { href: `/run?id=${encodeURIComponent(run.id)}` }, run.name), h("span.why", {}, run.id)),
    h("td", {}, run.model.split("/").pop(), h("span.why", {}, run.method)), h("td", {}, tasks),
    h("td.n", {}, run.total ? `${count(run.step)} / ${count(run.total)}` : "–"), h("td.n", {}, run.eval_loss === null ? "–" : run.eval_loss.toFixed(3)), h("td.n", {}, run.when),
    h("td", {}, h("button.ibtn.danger", { type: "button", disabled: alive, title: alive ? "Stop it first" : "Move to the trash", onclick: () => confirmDelete(run), "aria-label": `Delete ${run.name}` }, "Delete")));
}

function draw(value) {
  if (!value.runs) { root().replaceChildren(h("p.empty", {}, "Reading the runs …")); return; }
  if (!value.runs.length) { root().replaceChildren(h("p.empty", {}, "No runs yet. ", h("a", { href: "/new?preset=starter" }, "Start the starter preset"), " to see one.")); return; }
  const titles = ["State", "Run", "Model", "Tasks", "Steps", "Eval loss", "Started", ""];
  const head = h("thead", {}, h("tr", {}, titles.map((title, index) => h(index > 3 && index < 7 ? "th.n" : "th", { scope: "col" }, title))));
  root().replaceChildren(h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Runs" }, h("table.tasks.runs", {}, head, h("tbody", {}, value.runs.map(line)))));
}
