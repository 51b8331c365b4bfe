// One task in detail.  value: {name, ...} or {} for nothing; the confirmed delete fires `delete`, the close button `clear`.
function draw(value) {
  if (!value.name) { root().replaceChildren(); return; }
  const card = h("section.card.detail", { "aria-label": `Task ${value.name}` }, header(value));
  if (value.problem && value.state === "unusable") {
    card.append(h("div.note.bad", {}, h("b", {}, "This file cannot be used. "), rich(value.problem), value.fix ? h("div.fix", {}, rich(value.fix)) : null));
  }
  value.warnings.forEach((text) => card.append(h("div.note.warn", {}, text)));
  if (value.skipped.length) card.append(skipped(value));
  if (value.examples.length) card.append(examples(value));
  const dialog = confirmDelete(value);
  card.append(dialog);
  root().replaceChildren(card);
}

function header(value) {
  const facts = [value.format, value.used_text, value.heldout_text, value.original_name].filter(Boolean).join("  ·  ");
  const buttons = [];
  if (value.can_delete) {
    buttons.push(h("button.ibtn.danger", { type: "button", onclick: () => root().querySelector("dialog").showModal() }, "Delete"));
  }
  buttons.push(h("button.ibtn", { type: "button", "aria-label": "Close", onclick: () => { tell("clear", { name: "" }); root().replaceChildren(); } }, "Close"));
  return h("div.card-h", {}, h("div.grow", {}, h("h2", {}, value.name), h("div.sub", {}, facts)), ...buttons);
}

function skipped(value) {
  const rows = value.skipped.map(([line, reason]) => h("tr", {}, h("td.n", {}, line ? `line ${count(line)}` : ""), h("td", {}, reason)));
  const more = value.num_skipped - value.skipped.length;
  return h("details", { open: value.skipped.length <= 12 }, h("summary", {}, `${count(value.num_skipped)} skipped row${value.num_skipped === 1 ? "" : "s"}`),
    h("table.skipped", {}, h("tbody", {}, rows)), more > 0 ? h("p.sub", {}, `and ${count(more)} more`) : null);
}

function examples(value) {
  const items = value.examples.map((turns, index) => h("article.example", {}, h("div.sub", {}, `Example ${index + 1}`),
    turns.map(([role, content]) => h(`div.turn.${role === "assistant" ? "answer" : "prompt"}`, {},
      h("div.role", {}, role === "assistant" ? "assistant (trained)" : role), h("pre", { tabindex: "0" }, content)))));
  return h("details", { open: true }, h("summary", {}, "First examples, as text"), ...items);
}

function confirmDelete(value) {
  const dialog = h("dialog.st-dlg", { "aria-label": "Delete task" }, h("h3", {}, `Delete task ${value.name}?`),
    h("p", {}, "The files move to the trash in the data folder. Runs that used them keep their results."),
    h("div.row", {}, h("button", { type: "button", onclick: () => dialog.close() }, "Keep"),
      h("button.go", { type: "button", onclick: () => { dialog.close(); tell("delete", {}); } }, "Delete")));
  return dialog;
}
