// The sticky summary of the New run page.  value: NewRunView as plain values; see studio/pages/new_run.py
const FITS = { fits: ["ok", "fits"], tight: ["warn", "may just fit"], no: ["bad", "does not fit"], unknown: ["", "not known yet"] };
const TODO = new Set(["tasks", "model_name_or_path"]); // not chosen yet is no mistake

// The keyboard must be able to scroll the recipe; Gradio builds its editor late and anew.
new MutationObserver(() => document.querySelectorAll(".cm-scroller:not([tabindex='0'])").forEach((node) => { node.tabIndex = 0; })).observe(document.body, { childList: true, subtree: true });

function draw(value) {
  const [kind, words] = FITS[value.fit_state] || FITS.unknown;
  const parts = value.fit_parts || [];
  const isWrong = (value.problems || []).some((problem) => !TODO.has(problem.field));
  const fit = h("div.fit", {}, h(kind ? `span.pill.${kind}` : "span.pill", {}, h("i"), words), h("span", {}, value.fit_text || (isWrong ? "What it needs is said once the settings below are right." : "Choose a model to see what it needs.")));
  const breakdown = parts.length ? h("details.parts", {}, h("summary", {}, "What the memory is made of"),
    h("dl.facts", {}, parts.flatMap(([name, size]) => [h("dt", {}, name), h("dd.num", {}, size)]))) : null;
  const changes = value.changes || [];
  const ways = changes.length ? h("div.ways", { role: "group", "aria-label": "What would make it fit" }, h("p.sub", {}, "What would make it fit"), changes.map((one) => h("button.way", { type: "button", onclick: () => tell("submit", { apply: one.values, nonce: Date.now() }) },
    h("span", {}, one.labels.flatMap((label, index) => (index ? [" + ", h("b", {}, label)] : [h("b", {}, label)]))), h("span.sub.num", {}, one.text)))) : null;
  const facts = h("dl.facts", {}, (value.facts || []).flatMap(([name, text]) => [h("dt", {}, name), h("dd.num", {}, text)]));
  const problems = (value.problems || []).map((problem) => h(TODO.has(problem.field) && !problem.fix ? "li" : "li.bad", { "data-field": problem.field }, h("span.mark", { "aria-hidden": "true" }, TODO.has(problem.field) && !problem.fix ? "→" : "!"),
    h("span", {}, h("span", {}, rich(problem.problem)), problem.fix ? h("span.fix", {}, " ", rich(problem.fix)) : null)));
  const notes = (value.notes || []).map((text) => h("li", {}, h("span.mark", { "aria-hidden": "true" }, "i"), h("span", {}, text)));
  root().replaceChildren(fit, ...[ways, breakdown, facts].filter(Boolean),
    problems.length || notes.length ? h("div", { role: "status" }, h("ul.notes", { "aria-label": "Before the start" }, ...problems, ...notes)) : "");
}
