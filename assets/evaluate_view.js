// The matrix of the Evaluate page.  value: {empty} or {run, against, columns, rows, samples, forgot, job}; see studio/logic/evaluate.py
function jobCard(job) {
  if (!job || job.state === "done") return null;
  if (job.state === "stopped") return h("p.card.calm", { role: "status" }, "The evaluation was stopped. What is measured is kept; the next one goes on from there.");
  if (job.state === "running") return h("section.card", { role: "status", id: "evaluate-job" }, h("div.card-h", {}, h("h2", {}, "Evaluating"), h("span.sub", {}, job.phase)), h("progress", { max: "1", value: job.fraction === null ? null : String(job.fraction), "aria-label": "Progress of the evaluation" }));
  return h("section.card.failure", { role: "alert", id: "evaluate-failure" }, h("h2", {}, "The evaluation did not work"), h("p", {}, rich(job.problem)), job.fix ? h("p.fix", {}, "What to do: ", rich(job.fix)) : null, job.log ? h("pre.st-log", { tabindex: "0" }, job.log) : null);
}

function cell(found) {
  if (!found) return h("td.n", {}, h("span.sub", {}, "–"));
  const verdict = found.word ? h(`span.verdict${found.tone ? `.${found.tone}` : ""}`, {}, h("b", { "aria-hidden": "true" }, found.sign), h("span", {}, found.word)) : null;
  return h(`td.n${found.tone === "bad" ? ".forgot" : ""}`, {}, h("b.num", {}, found.value), verdict, h("span.sub.num", { title: found.change ? "Difference to the base model, 95 % interval" : "95 % interval" }, found.change || found.interval));
}

function matrix(value) {
  const head = h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Data"), h("th", { scope: "col" }, "Measure"), ...value.columns.map((label) => h("th.n", { scope: "col", translate: "no" }, label))));
  const body = value.rows.map((row, at) => {
    const first = at === 0 || value.rows[at - 1].dataset !== row.dataset;
    const span = value.rows.filter((other) => other.dataset === row.dataset).length;
    const name = first ? h("th.data", { scope: "rowgroup", rowspan: String(span) }, h("span", { translate: "no" }, row.dataset), row.retention ? h("span.sub", {}, "what was forgotten") : null) : null;
    return h(`tr${first ? ".first" : ""}`, {}, name, h("th.measure", { scope: "row", title: row.help }, h("span", {}, row.measure), h("span.sub", {}, row.better === "lower" ? "lower is better" : "higher is better"), h("span.sub.num", {}, `n = ${row.num_examples}`)), ...row.cells.map(cell));
  });
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Results" }, h("table.matrix", { id: "evaluate-matrix" }, head, h("tbody", {}, body)));
}

function exportsOf(value) {
  const address = (form) => `/studio/api/evaluation?${new URLSearchParams({ id: value.run, against: value.against, form })}`;
  return [["JSON", "json"], ["CSV", "csv"], ["Markdown", "markdown"], ["Model card", "card"]].map(([label, form]) => h("a.ibtn", { href: address(form), download: "" }, label));
}

function draw(value) {
  if (value.empty) { root().replaceChildren(h("p.card.empty", {}, value.empty, " ", h("a", { href: "/new" }, "New run"))); return; }
  if (!value.columns) { root().replaceChildren(h("p.card.empty", {}, "Reading the results …")); return; }
  keepAddress({ run: value.run, against: value.against });
  const job = jobCard(value.job);
  if (!value.rows.length) { root().replaceChildren(...[job, h("p.card.empty", { id: "evaluate-empty" }, "Nothing was measured yet. Press Evaluate: the base model and the checkpoints answer the held-out examples of each task.")].filter(Boolean)); return; }
  const forgot = value.forgot.length ? h("div", { role: "status", id: "evaluate-forgot" }, h("ul.notes", {}, value.forgot.map((text) => h("li.bad", {}, h("span.mark", { "aria-hidden": "true" }, "!"), h("span", {}, text))))) : null;
  const legend = h("p.sub.legend", {}, "Each model is compared with the first column on the same examples. A difference is called one when at least 5 examples were compared and the 95 % interval of a paired bootstrap does not hold 0, each comparison by itself. Scores are in percent.");
  const stamp = JSON.stringify([value.run, value.against, value.columns, value.rows.map((row) => row.cells.map((found) => found && found.value))]);
  const samples = samplesCard(value, stamp);
  root().replaceChildren(...[job, forgot, h("section.card.flush", {}, h("div.card-h", {}, h("h2", {}, "Results"), h("div.grow"), ...exportsOf(value)), matrix(value), legend), publishedCard(value.published), samples].filter(Boolean));
  drawSamples(value);
}
