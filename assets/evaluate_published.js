// HumanEval: this run's models among what others published.  publishedCard({source, rows, num_examples}) -> node; see studio/logic/published.py
function publishedCard(found) {
  if (!found) return null;
  const head = h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Model"), h("th.n", { scope: "col" }, "pass@1"), h("th", { scope: "col" }, "Origin"), h("th", { scope: "col" }, "Date")));
  const body = found.rows.map((row) => h(`tr${row.published ? "" : ".mine"}`, {}, h("th.data", { scope: "row", translate: "no" }, row.model), h("td.n.num", {}, row.value), h("td", {}, row.published ? "published" : "measured here"), h("td.num", {}, row.date || "–")));
  const few = found.num_examples < 164 ? h("p.sub.legend", { id: "published-few" }, `Measured here on ${found.num_examples} of 164 problems only, so these rows cannot be compared with the published ones.`) : null;
  const legend = h("p.sub.legend", {}, "Published numbers were measured by others, with prompts and precision of their own. Source: ", h("span", { translate: "no" }, found.source));
  return h("section.card.flush", { id: "evaluate-published" }, h("div.card-h", {}, h("h2", {}, "HumanEval beside published results")), few, h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Published results" }, h("table.matrix.published", {}, head, h("tbody", {}, body))), legend);
}
