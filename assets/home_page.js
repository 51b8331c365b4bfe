// The Home page.  value: {starter, groups, runs, disk}; see studio/logic/home.py
const dots = (tasks) => h("span.dots", { title: tasks.join(", ") }, tasks.map((task) => swatch(task)), h("span", {}, tasks.length === 1 ? "1 task" : `${tasks.length} tasks`));
const pill = (tone, word) => h(tone ? `span.pill.${tone}` : "span.pill", {}, h("i"), word);
const open = (card) => `/new?preset=${encodeURIComponent(card.preset)}`;

function variant(card) {
  const remove = card.own ? h("button.link", { type: "button", "aria-label": `Delete preset ${card.name}`, onclick: () => tell("delete", { chosen: card.preset }) }, "Delete") : null;
  return h("li.variant", {}, h("div.variant-line", {}, h("a", { href: open(card), title: card.description }, card.variant), remove,
    h("span.variant-fit", {}, h("span.sub.num.size", { title: card.need }, card.memory), pill(card.tone, card.verdict || "cannot be read"))), card.why_not ? h("span.sub", {}, card.why_not) : null);
}

const group = (one) => h("article.card.preset", { "aria-label": one.name }, h("h3", {}, one.name), h("ul.variants", {}, one.presets.map(variant)));

function runLine(run) {
  const share = run.total ? Math.round((run.step / run.total) * 100) : 0;
  return h("a.run-line", { href: `/run?id=${encodeURIComponent(run.id)}` }, pill(run.tone, run.word), h("b", { translate: "no" }, run.name),
    h("span.sub.grow", {}, run.when), h("span.sub.num", {}, run.total ? `${run.step} / ${run.total} steps` : "–"), h("progress", { max: 100, value: share, "aria-label": `${share} percent done` }));
}

function draw(value) {
  const { starter } = value;
  const hero = starter ? h("section.card.hero", {}, h("div.hero-text", {}, h("h1", {}, "Fine-tune one model on many tasks at once"),
    h("p.lead", {}, "Drop in task files, see what the mixture really is, press Start, watch every task learn, then talk to the result. On your own machine."),
    h("div.hero-actions", {}, h("a.button.primary", { href: open(starter), id: "open-starter" }, "Try it now"), h("a.button", { href: "/datasets" }, "Use your own data"))),
    h("div.hero-card", {}, h("h2", { translate: "no" }, starter.name), h("p", {}, starter.description), h("div.facts-line", {}, h("span.tag", {}, starter.method), dots(starter.tasks)),
      h("div.fit-line", {}, pill(starter.fits ? "ok" : "warn", starter.fits ? "can run here" : "cannot run here"), h("span.sub", {}, starter.need)))) : null;
  const presets = (value.groups || []).length ? h("section", {}, h("h2.section", {}, "Presets"), (value.notes || []).map((text) => h("p.sub.preset-note", {}, text)), h("div.cards", {}, value.groups.map(group))) : null;
  const runs = value.runs ? h("section", {}, h("h2.section", {}, "Recent runs"), value.runs.length ? h("div.card.run-list", {}, value.runs.map(runLine)) : h("p.card.empty", {}, "No runs yet. The starter takes a few minutes on a laptop.")) : null;
  root().replaceChildren(...[hero, runs, presets, value.disk ? h("p.sub.disk", {}, value.disk) : null].filter(Boolean));
}
