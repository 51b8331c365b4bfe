// What was exported.  value: {results: [{id, name, title, compared, note, path, facts, card, snippets, repo}]}; see studio/logic/export.py
const open = new Set(); // details that a person opened stay open while the page refreshes
let waiting = null;

const shown = (value) => (typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(3) : String(value));
const facts = (pairs) => h("dl.facts", {}, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd.num", { translate: "no" }, shown(value))]));

function more(item, what, title, ...children) {
  const key = `${item.id} ${what}`;
  return h("details", { open: open.has(key), ontoggle: (event) => { if (event.target.open) open.add(key); else open.delete(key); } }, h("summary", {}, title), ...children);
}

function confirmDelete(item) {
  const dialog = h("dialog.st-dlg", { "aria-labelledby": "dlg-title" }, h("h3", { id: "dlg-title" }, "Delete this export?"),
    h("p", {}, h("span", { translate: "no" }, item.id), h("br"), "It goes to the trash folder of the data root."),
    h("div.row", {}, h("button", { type: "button", onclick: () => dialog.close("") }, "Keep it"), h("button.go", { type: "button", onclick: () => dialog.close("go") }, "Delete")));
  dialog.addEventListener("close", () => { const go = dialog.returnValue === "go"; dialog.remove(); if (go) tell("delete", { chosen: item.id, nonce: Date.now() }); });
  document.body.append(dialog);
  dialog.showModal();
}

function pushForm(item) {
  const repo = h("input", { type: "text", value: item.repo, spellcheck: false, "aria-label": "Repository on the hub", autocomplete: "off" });
  const isPublic = h("input", { type: "checkbox" });
  const send = () => tell("submit", { chosen: item.id, repo: repo.value, public: isPublic.checked, nonce: Date.now() });
  return h("div.push", {}, h("p.sub", {}, "Uses the login of this machine (hf auth login). The repository is private unless you say otherwise."),
    h("div.row", {}, repo, h("label", {}, isPublic, " Everybody may see it"), h("button.ibtn", { type: "button", onclick: send, "aria-label": `Push ${item.name}` }, "Push")));
}

function card(item) {
  const state = item.compared ? h("span.pill.ok", {}, h("i"), "compared") : h("span.pill", {}, h("i"), item.note.startsWith("not compared") ? "not compared" : "copied");
  return h("section.card", { "data-result": item.id, "aria-label": item.name }, h("div.card-h", {}, h("h2", { translate: "no" }, item.name), h("span.sub", {}, item.title), state, h("div.grow"),
    h("button.ibtn.danger", { type: "button", "aria-label": `Delete ${item.name}`, onclick: () => confirmDelete(item) }, "Delete")),
  item.note && !item.compared ? h("p.sub", {}, item.note) : null, facts(item.facts), copyBlock("Folder", item.path),
  more(item, "use", "Use it", ...item.snippets.map((one) => copyBlock(one.title, one.text))),
  item.card ? more(item, "card", "Model card", h("pre.st-log", { tabindex: "0", translate: "no" }, item.card)) : null,
  more(item, "push", "Push to the hub", pushForm(item)));
}

function draw(value) {
  const busy = root().contains(document.activeElement) && document.activeElement.matches("input");
  clearTimeout(waiting);
  if (busy) { waiting = setTimeout(() => draw(props.value || {}), 1000); return; } // never under somebody's typing
  root().replaceChildren(...(value.results || []).map(card));
}
