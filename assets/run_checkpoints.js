// The Checkpoints tab of a run.  saved: rows of studio/logic/run_checkpoints.py, newest first; act(action, more) asks the server.
function checkpointTable(run, act) {
  if (!run.saved.length) return h("section.card", {}, h("div.card-h", {}, h("h2", {}, "Checkpoints")), h("p.sub", {}, "None yet. One is written when the recipe says so, when an evaluation is the best, and at the end."));
  const total = run.saved.reduce((sum, row) => sum + row.bytes, 0);
  const link = (page, text, name, key) => h("a.ibtn", { href: `/${page}?${new URLSearchParams({ [key]: run.id, checkpoint: name })}`, "aria-label": `${text}: ${name}` }, text);
  const remove = (row) => h("button.ibtn.danger", { type: "button", disabled: !row.may_delete, title: row.may_delete ? "Move to the trash" : "The run still needs it", "aria-label": `Delete ${row.name}`, onclick: async () => {
    const body = row.is_best ? "It is the best of this run. It goes to the trash folder of the data root." : "It goes to the trash folder of the data root.";
    if (await ask({ title: `Delete ${row.name}?`, body, go: "Delete", keep: "Keep it" })) act("delete-checkpoint", { checkpoint: row.name });
  } }, icon("trash"));
  const lines = run.saved.map((row) => h("tr", {}, h("td", {}, h("b", { translate: "no" }, row.name), row.is_best ? h("span.tag.good", {}, "best") : null, row.is_last ? h("span.tag", {}, "last") : null),
    h("td.n", {}, row.eval_loss === null || row.eval_loss === undefined ? "–" : row.eval_loss.toFixed(3)), h("td.n", {}, size(row.bytes)), h("td.n", {}, row.when),
    h("td", {}, h("div.row-actions", {}, link("chat", "Compare in chat", row.name, "run"), link("export", "Merge", row.name, "run"), link("new", "Train further", row.name, "continue"), remove(row)))));
  const titles = ["Checkpoint", "Eval loss", "Size", "Saved", "Actions"];
  return h("section.card.flush", {}, h("div.card-h", {}, h("h2", {}, "Checkpoints"), h("span.sub.num", {}, `${run.saved.length}, together ${size(total)}`)),
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Checkpoints" }, stacking(h("table.tasks.saved", {}, h("thead", {}, h("tr", {}, titles.map((title, i) => h(i > 0 && i < 4 ? "th.n" : "th", { scope: "col" }, title)))), h("tbody", {}, lines)))));
}
