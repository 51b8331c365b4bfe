// What an export takes, and the job.  value: {empty} or {about, facts, first, needs, command, job}; see studio/logic/export.py
let logOpen = false;

const facts = (pairs) => h("dl.facts", {}, pairs.flatMap(([name, text]) => [h("dt", {}, name), h("dd.num", name === "Base model" ? { translate: "no" } : {}, String(text))]));
const log = (text) => (text ? h("details", { open: logOpen, ontoggle: (event) => { logOpen = event.target.open; } }, h("summary", {}, "Log"), h("pre.st-log", { tabindex: "0", translate: "no" }, text)) : null);

function jobCard(job) {
  if (!job) return null;
  if (job.state === "done") return job.address ? h("p.note", { role: "status" }, "Pushed to the hub: ", h("a", { href: /^https?:/.test(job.address) ? job.address : null, target: "_blank", rel: "noreferrer", translate: "no" }, job.address)) : null;
  if (job.state === "running") return h("section.card", { role: "status" }, h("div.card-h", {}, h("h2", {}, "At work"), h("span.sub", {}, job.phase)), h("progress", { max: "1", value: job.fraction === null ? null : String(job.fraction), "aria-label": "Progress of the export" }), log(job.log));
  const close = h("button.ibtn", { type: "button", id: "export-close", onclick: () => tell("clear", {}) }, "Close");
  return h("section.card.failure", { role: "alert" }, h("div.card-h", {}, h("h2", {}, "This did not work"), h("div.grow"), close), h("p", {}, rich(job.problem)), job.fix ? h("p.fix", {}, "What to do: ", rich(job.fix)) : null, job.log ? h("pre.st-log", { tabindex: "0", translate: "no" }, job.log) : null);
}

function draw(value) {
  if (value.empty) { root().replaceChildren(h("p.card.empty", {}, value.empty)); return; }
  if (!value.facts) { root().replaceChildren(); return; }
  const before = h("section.card", {}, h("div.card-h", {}, h("h2", {}, "Before you start")), h("p.sub", {}, value.about), facts(value.facts),
    value.first ? h("p.sub", {}, "There is no merged model of this checkpoint yet; it is made first and kept.") : null,
    value.needs ? h("p.sub", {}, "This format needs a package that is not installed: ", h("code", {}, value.needs)) : null, copyBlock("The same in a terminal", value.command));
  root().replaceChildren(...[jobCard(value.job), before].filter(Boolean));
}
