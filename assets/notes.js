// Sentences about what just happened.  value: {notes: [{ok, text}], title}
function draw(value) {
  const notes = value.notes || [];
  if (!notes.length) { root().replaceChildren(); return; }
  const lines = notes.map((note) => h(`li.${note.ok ? "ok" : "bad"}`, {}, h("span.mark", { "aria-hidden": "true" }, note.ok ? "✓" : "!"), h("span", {}, rich(note.text))));
  root().replaceChildren(h("div", { role: "status" }, h("ul.notes", {}, ...lines)));
}
