// The table of tasks on the Datasets page.  value: {rows, selected}; a press on a row fires `select`.
const STATES = { ready: ["ok", "ready"], warnings: ["warn", "ready, with warnings"], unusable: ["bad", "unusable"] };

function draw(value) {
  const rows = value.rows || [];
  learnLooks(rows.map((row) => row.name), rows.map((row) => row.color));
  if (!rows.length) {
    root().replaceChildren(h("p.empty", {}, "No tasks yet. Drop files above: each becomes a task."));
    return;
  }
  const body = h("tbody");
  rows.forEach((row, index) => body.append(line(row, index, value.selected)));
  const titles = [["Task", ""], ["Format", ""], ["Records", "n"], ["Used", "n"], ["Skipped", "n"], ["Held out", "n"], ["Size", "n"], ["State", ""]];
  const head = h("tr", {}, titles.map(([title, kind]) => h(kind ? `th.${kind}` : "th", { scope: "col" }, title)));
  root().replaceChildren(h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Tasks" },
    h("table.tasks", {}, h("thead", {}, head), body)));
}

function line(row, index, selected) {
  const open = () => {
    root().querySelectorAll("tr[aria-selected]").forEach((other) => other.removeAttribute("aria-selected"));
    node.setAttribute("aria-selected", "true");
    keepAddress({ task: row.name });
    tell("select", { selected: row.name });
  };
  const [kind, words] = STATES[row.state];
  const number = (value) => h("td.n", { "data-said": "used" }, row.num_records === null ? "–" : count(value)); // said on a phone, where no title stands above
  const node = h("tr", { onclick: open, "aria-selected": row.name === selected ? "true" : null },
    h("td", {}, h("div.who", {}, swatch(row.name),
      h("button.link", { type: "button", translate: "no", title: row.original_name }, row.name), row.kind === "sample" ? h("span.tag", {}, "sample") : null)),
    h("td", {}, row.format || "–"), number(row.num_records), number(row.num_used),
    h(row.num_skipped ? "td.n.warn" : "td.n", {}, row.num_records === null ? "–" : count(row.num_skipped)),
    h("td.n", {}, row.num_heldout === null ? "–" : count(row.num_heldout)),
    h("td.n", {}, row.num_records === null ? "–" : size(row.num_bytes)),
    h("td.state", {}, h(`span.pill.${kind}`, {}, h("i"), words), row.problem ? h("span.why", {}, row.problem) : null));
  return node;
}
