// Keeps the form of New run (assets/draft.js) and says when it came back.  value: {restored} or {keep: draft | null, links: [names]}
let note = null;

function draw(value) {
  if (value.keep !== undefined) { window.studioDraft.write(value.keep, value.links); return; }
  if (!value.restored || note) return;
  const discard = h("button.ibtn", { type: "button", onclick: () => { window.studioDraft.clear(); location.replace(location.pathname); } }, "Discard it");
  root().replaceChildren(note = h("p.draft-note.sub", { role: "status" }, h("span", {}, "Your draft is back."), discard));
}
