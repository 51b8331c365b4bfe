// Two conversations side by side.  value: {columns: [{side, title, state, turns}], note, problem, fix, gold, answering}
/** Model text as text: code fences become code blocks, everything else stays a paragraph. Never markup. */
function prose(text) {
  return String(text || "").split("```").map((part, index) => {
    if (index % 2 === 0) return part.trim() ? h("p.say", {}, part.replace(/^\n+|\n+$/g, "")) : null;
    const newline = part.indexOf("\n");
    return h("pre", { tabindex: "0" }, newline >= 0 ? part.slice(newline + 1).replace(/\n+$/, "") : part);
  });
}

function draw(value) {
  const column = (side) => h("section.card.column", { "aria-label": side.title, "data-side": side.side },
    h("div.card-h", {}, h("h2", {}, side.title), value.answering === side.side ? h("span.pill.ok.live", {}, h("i"), "answering") : null),
    side.turns.length ? side.turns.map((turn) => h(`div.turn-box.${turn.role}`, {}, h("div.who", {}, turn.role === "user" ? "You" : "Model"), h("div.text", {}, turn.content ? prose(turn.content) : h("p.sub", {}, "…"))))
      : h("p.empty", {}, side.side === "base" ? "What the model says before the fine-tuning." : "What your model says after it."),
    side.state ? h("p.sub.state-line", {}, side.state) : null);
  const gold = value.gold ? h("details.card.gold", { open: true }, h("summary", {}, "The answer in the data"), h("div.text", {}, prose(value.gold))) : null;
  const problem = value.problem ? h("ul.notes", { role: "alert" }, h("li.bad", {}, h("span.mark", { "aria-hidden": "true" }, "!"), h("span", {}, rich(value.problem), value.fix ? h("span.fix", {}, " ", rich(value.fix)) : null))) : null;
  const note = value.note ? h("p.sub", { role: "status" }, value.note) : null;
  root().replaceChildren(...[problem, note, h("div.columns", {}, (value.columns || []).map(column)), gold].filter(Boolean));
}
