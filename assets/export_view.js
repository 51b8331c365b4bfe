// The Export page's result.  value: {empty} or {facts, job, merged}; see studio/logic/export.py
function copyable(label, text) {
  const button = h("button.ibtn", { type: "button", onclick: async () => { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } }, "Copy");
  return h("div.copy", {}, h("div.card-h", {}, h("h3", {}, label), h("div.grow"), button), h("pre", { tabindex: "0" }, text));
}
const shown = (value) => (typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(3) : String(value));
const facts = (pairs) => h("dl.facts", {}, pairs.flatMap(([name, text]) => [h("dt", {}, name), h("dd.num", {}, shown(text))]));

function jobCard(job) {
  if (!job || job.state === "done") return null;
  if (job.state === "running") return h("section.card", { role: "status" }, h("div.card-h", {}, h("h2", {}, "Merging"), h("span.sub", {}, job.phase)), h("progress", { max: "1", value: job.fraction === null ? null : String(job.fraction), "aria-label": "Merge progress" }));
  return h("section.card.failure", { role: "alert" }, h("h2", {}, "The merge did not work"), h("p", {}, rich(job.problem)), job.fix ? h("p.fix", {}, "What to do: ", rich(job.fix)) : null, job.log ? h("pre.st-log", { tabindex: "0" }, job.log) : null);
}

function draw(value) {
  if (value.empty) { root().replaceChildren(h("p.card.empty", {}, value.empty)); return; }
  if (!value.facts) { root().replaceChildren(); return; }
  const merged = value.merged.map((item) => h("section.card", { "data-merged": item.name }, h("div.card-h", {}, h("h2", {}, item.name), h("span.pill.ok", {}, h("i"), "parity checked")), facts(Object.entries(item.facts)), copyable("Folder", item.path), copyable("transformers", item.transformers), copyable("vLLM", item.vllm)));
  root().replaceChildren(...[h("section.card", {}, h("div.card-h", {}, h("h2", {}, "Before the merge")), facts(value.facts)), jobCard(value.job), ...merged].filter(Boolean));
}
