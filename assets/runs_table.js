// All runs.  value: {runs: [RunLine]}; see studio/logic/runs.py.  Search, filter and order stand in the address.
// Fires `delete` with {chosen}, `edit` with {chosen, tags, note}.
const GROUPS = [["", "All"], ["live", "Active"], ["finished", "Finished"], ["stopped", "Stopped"], ["failed", "Failed"]];
const GROUP_OF = { queued: "live", preparing: "live", running: "live", stopping: "live", finished: "finished", stopped: "stopped", failed: "failed", lost: "failed" };
const COLUMNS = [["", null], ["State", (run) => run.word], ["Run", (run) => run.name.toLowerCase()], ["Model", (run) => run.model.toLowerCase()], ["Tasks", (run) => run.tasks.length],
  ["Loss", null], ["Best eval", (run) => run.best ?? Infinity], ["Steps", (run) => run.step], ["Time", (run) => run.seconds], ["Started", (run) => run.when], ["", null]];
const NUMBERS = new Set(["Best eval", "Steps", "Time", "Started"]);
const MOST = 6;
const query = new URL(location.href).searchParams;
const view = { text: query.get("q") || "", group: query.get("state") || "", sort: query.get("sort") || "", down: query.get("down") === "1", chosen: new Set() };
let parts = null;

function frame() {
  const search = h("input.search", { type: "search", value: view.text, placeholder: "Search name, model, task or tag", "aria-label": "Search runs" });
  search.addEventListener("input", () => { view.text = search.value; fill(); });
  const groups = h("div.seg", { role: "group", "aria-label": "State" }, GROUPS.map(([name, title]) => h("button", { type: "button", "aria-pressed": String(view.group === name), onclick: (event) => {
    view.group = name;
    for (const button of groups.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
    fill();
  } }, title)));
  const compare = h("a.button.primary", { id: "runs-compare", role: "link" }), head = h("tr"), body = h("tbody"), shown = h("span.sub.num", { role: "status" });
  parts = { compare, head, body, shown };
  root().replaceChildren(h("section.card.flush", {}, h("div.card-h.toolbar", {}, search, groups, h("div.grow"), shown, compare),
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Runs" }, h("table.tasks.runs", {}, h("thead", {}, head), body))));
}

function draw(value) {
  if (!value.runs) { root().replaceChildren(h("section.card.empty.loading", { "aria-busy": "true" }, "Reading the runs …")); return; }
  if (!value.runs.length) { parts = null; root().replaceChildren(h("section.card.empty", {}, h("p", {}, "No runs yet."), h("a.button.primary", { href: "/new?preset=starter" }, "Start the starter preset"))); return; }
  for (const run of value.runs) learnLooks(run.tasks, run.colors);
  if (!parts || !parts.body.isConnected) frame();
  fill();
}

function fill() {
  keepAddress({ q: view.text, state: view.group, sort: view.sort, down: view.down ? "1" : "" });
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = props.value.runs.filter((run) => (!view.group || GROUP_OF[run.state] === view.group)
    && words.every((word) => [run.id, run.name, run.model, run.method, run.note, ...run.tasks, ...run.tags].some((text) => text.toLowerCase().includes(word))));
  const key = (COLUMNS.find(([title]) => title && title === view.sort) || [])[1];
  if (key) found.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (view.down ? -1 : 1));
  parts.head.replaceChildren(...COLUMNS.map(([title, by], i) => {
    const way = by && view.sort === title ? (view.down ? "descending" : "ascending") : null;
    const inside = by ? h("button.sort", { type: "button", onclick: () => { view.down = view.sort === title ? !view.down : false; view.sort = title; fill(); parts.head.children[i].firstChild.focus(); } }, title, h("span", { "aria-hidden": "true" }, way ? (view.down ? " ↓" : " ↑") : "")) : title || h("span.hidden", {}, i ? "Actions" : "Choose");
    return h(NUMBERS.has(title) ? "th.n" : "th", { scope: "col", "aria-sort": way }, inside);
  }));
  const focus = document.activeElement?.dataset?.key;
  parts.body.replaceChildren(...(found.length ? found.map(line) : [h("tr", {}, h("td", { colSpan: COLUMNS.length }, "No run matches."))]));
  if (focus) parts.body.querySelector(`[data-key="${CSS.escape(focus)}"]`)?.focus();
  parts.shown.textContent = found.length === props.value.runs.length ? "" : `${count(found.length)} of ${count(props.value.runs.length)} runs`;
  const ids = props.value.runs.map((run) => run.id).filter((id) => view.chosen.has(id));
  parts.compare.textContent = `Compare ${ids.length}`;
  parts.compare.hidden = ids.length < 2;
  parts.compare.href = `/compare?runs=${ids.map(encodeURIComponent).join(",")}`;
}

const SVG = "http://www.w3.org/2000/svg";
/** The training loss as a small line; numbers stand beside it. */
function sparkline(values) {
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "polyline");
  for (const [name, text] of Object.entries({ viewBox: "0 0 96 24", width: "96", height: "24", class: "spark", "aria-hidden": "true" })) svg.setAttribute(name, text);
  const low = Math.min(...values), span = Math.max(...values) - low || 1;
  path.setAttribute("points", values.map((value, i) => `${(2 + (92 * i) / Math.max(1, values.length - 1)).toFixed(1)},${(21 - (18 * (value - low)) / span).toFixed(1)}`).join(" "));
  svg.append(path);
  return svg;
}

function line(run) {
  const alive = GROUP_OF[run.state] === "live" && (run.state !== "queued" || run.waiting !== "");
  const box = h("input", { type: "checkbox", checked: view.chosen.has(run.id), disabled: !view.chosen.has(run.id) && view.chosen.size >= MOST, "aria-label": `Compare ${run.name}`, "data-key": `c-${run.id}` });
  box.addEventListener("change", () => { if (box.checked) view.chosen.add(run.id); else view.chosen.delete(run.id); fill(); });
  const act = (name, label, more) => h(more.href ? "a.ibtn.square" : "button.ibtn.square", { ...(more.href ? {} : { type: "button" }), title: label, "aria-label": `${label}: ${run.name}`, "data-key": `${name}-${run.id}`, ...more }, icon(name));
  return h("tr", {}, h("td.choose", {}, h("label", {}, box)), h("td", {}, h(run.tone ? `span.pill.${run.tone}` : "span.pill", {}, h("i"), run.word), run.waiting ? h("span.why", {}, run.waiting) : null),
    h("td.name", {}, h("a.link", { href: `/run?id=${encodeURIComponent(run.id)}`, translate: "no", "data-key": `r-${run.id}` }, run.name), h("span.why", { translate: "no" }, run.id),
      run.tags.length ? h("span.tags", { translate: "no" }, run.tags.map((tag) => h("span.tag", {}, tag))) : null, run.note ? h("span.note-text", { translate: "no" }, run.note) : null),
    h("td", {}, h("span", { translate: "no" }, run.model.split("/").pop()), h("span.why", {}, run.method, run.devices ? ` · ${run.devices}` : "")),
    h("td", {}, h("span.dots", { title: run.tasks.join(", "), role: "img", "aria-label": run.tasks.join(", "), translate: "no" }, run.tasks.slice(0, 12).map((task) => swatch(task)))),
    h("td", {}, run.spark.length > 1 ? sparkline(run.spark) : "–"), h("td.n", { "data-said": "best" }, run.best === null ? "–" : run.best.toFixed(3)), h("td.n", {}, run.total ? `${count(run.step)} / ${count(run.total)}` : "–"),
    h("td.n", {}, run.seconds ? duration(run.seconds) : "–"), h("td.n", {}, run.when),
    h("td", {}, h("div.row-actions", {}, act("copy", "Clone", { href: `/new?from=${encodeURIComponent(run.id)}` }), act("pencil", "Tags and note", { onclick: () => annotate(run) }),
      act("trash", "Delete", { disabled: alive, ...(alive ? { title: "Stop it first" } : {}), onclick: async () => {
        if (await ask({ title: "Delete this run?", body: h("span", {}, h("b", { translate: "no" }, run.name), " ", h("span", {}, "goes to the trash folder of the data root.")), go: "Delete", keep: "Keep it" })) tell("delete", { chosen: run.id });
      } }))));
}

function annotate(run) {
  const tags = h("input", { type: "text", value: run.tags.join(", "), placeholder: "baseline, sql" }), note = h("textarea", { rows: "5", maxLength: 2000 });
  note.value = run.note;
  const dialog = h("dialog.st-dlg", { "aria-labelledby": "dlg-title" }, h("h3", { id: "dlg-title" }, "Tags and note"), h("p", { translate: "no" }, run.name),
    h("label.field", {}, h("span", {}, "Tags, with commas between"), tags), h("label.field", {}, h("span", {}, "Note"), note),
    h("div.row", {}, h("button", { type: "button", onclick: () => dialog.close("") }, "Leave as it is"), h("button.go.calm", { type: "button", onclick: () => dialog.close("go") }, "Save")));
  dialog.addEventListener("close", () => { const go = dialog.returnValue === "go"; dialog.remove(); if (go) tell("edit", { chosen: run.id, tags: tags.value, note: note.value }); });
  document.body.append(dialog);
  dialog.showModal();
}
