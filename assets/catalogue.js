// Known data sets on the Datasets page.  value: {entries}; a press on Download fires `download` with {wanted: path}.
function draw(value) {
  const entries = value.entries || [];
  root().replaceChildren(h("ul.catalogue", {}, ...entries.map((entry) => h("li", { "data-name": entry.name },
    h("div.grow", {}, h("b", {}, entry.title), h("div.sub", {}, [entry.about, entry.rows ? `${count(entry.rows)} rows` : "", entry.licence ? `licence ${entry.licence}` : "licence: see its card", entry.format].filter(Boolean).join(" · ")),
      entry.text && entry.state !== "here" ? h(entry.state === "failed" ? "div.why.bad" : "div.why", { role: "status" }, rich(entry.text)) : null),
    entry.state === "here" ? h("span.pill.ok", {}, h("i"), entry.text) : entry.state === "running" || entry.state === "arrived" ? h("span.pill", {}, h("i"), entry.state === "running" ? "downloading" : "reading")
      : h("button.ibtn", { type: "button", "aria-label": `Download ${entry.title}`, onclick: () => tell("download", { wanted: entry.path }) }, entry.state === "failed" ? "Try again" : "Download")))));
}
