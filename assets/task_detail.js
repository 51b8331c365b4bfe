// One task in detail.  value: {name, ...} or {} for nothing; the confirmed delete fires `delete`, the close button `clear`.
let isOpen = false; // a page that still waits for the task of its address has nothing to take out of it

function draw(value) {
  if (!value.name && isOpen) keepAddress({ task: "" });
  isOpen = Boolean(value.name);
  if (!value.name) { root().replaceChildren(); return; }
  const card = h("section.card.detail", { "aria-label": `Task ${value.name}` }, header(value));
  if (value.problem && value.state === "unusable") {
    card.append(h("div.note.bad", {}, h("b", {}, "This file cannot be used. "), rich(value.problem), value.fix ? h("div.fix", {}, rich(value.fix)) : null));
  }
  if ((value.found_columns || []).length) card.append(columns(value));
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
  buttons.push(h("button.ibtn", { type: "button", "aria-label": "Close", onclick: () => { tell("clear", { name: "" }); draw({}); } }, "Close"));
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
  return h("details", { open: value.state === "unusable" }, h("summary", {}, "First examples, as written in the file"), ...items);
}

function confirmDelete(value) {
  const dialog = h("dialog.st-dlg", { "aria-label": "Delete task" }, h("h3", {}, `Delete task ${value.name}?`),
    h("p", {}, "The files move to the trash in the data folder. Runs that used them keep their results."),
    h("div.row", {}, h("button", { type: "button", onclick: () => dialog.close() }, "Keep"),
      h("button.go", { type: "button", onclick: () => { dialog.close(); tell("delete", {}); } }, "Delete")));
  return dialog;
}

/** Which column means what, for files whose names do not say it; `apply` reads the file again. */
function columns(value) {
  const ways = { "prompt and completion": ["prompt", "completion", "system"], "a conversation": ["messages"], "plain text": ["text"] };
  const current = value.columns || {};
  const way = current.messages ? "a conversation" : current.text ? "plain text" : "prompt and completion";
  const form = h("div.named");
  const fill = (chosen) => form.replaceChildren(...ways[chosen].map((role, index) => {
    const likely = current[role] || (role === "system" ? "" : value.found_columns[index]);
    const select = h("select", { "data-role": role, "aria-label": `Column of ${role}` }, role === "system" ? h("option", { value: "" }, "none") : null,
      ...value.found_columns.map((name) => h("option", { value: name, selected: name === likely }, name)));
    return h("label", {}, `${role} `, select);
  }));
  const kind = h("select", { "aria-label": "The file is read as" }, ...Object.keys(ways).map((name) => h("option", { value: name, selected: name === way }, name)));
  kind.addEventListener("change", () => fill(kind.value));
  fill(way);
  const apply = () => {
    const named = Object.fromEntries([...form.querySelectorAll("select")].filter((select) => select.value).map((select) => [select.dataset.role, select.value]));
    tell("apply", { columns: named });
  };
  return h(value.is_guess || value.state === "unusable" ? "div.note.warn.mapping" : "div.note.mapping", {},
    h("p", {}, value.is_guess ? "The names of the columns say nothing, so this is a guess. Is it right?" : "What the columns mean:"),
    h("div.named", {}, h("label", {}, "read as ", kind), form, h("button.ibtn", { type: "button", onclick: apply }, "Read again")));
}
