// The Balance tab of a run: how the tasks pull.  value: see studio/logic/balance.py
function balanceTab(found) {
  const forgot = (found.forgot || []).map((text) => h("li.bad", {}, h("span.mark", { "aria-hidden": "true" }, "!"), h("span", {}, text)));
  const note = h("div.balance-note", {}, forgot.length ? h("div", { role: "status" }, h("ul.notes", {}, forgot)) : null, h("p.balance-words", { role: "status" }, rich(found.sentence)));
  if (!found.step.length) return h("section.card", {}, h("div.card-h", {}, h("h2", {}, "Balance")), note);
  const title = (text, sub) => h("div.card-h", {}, h("h3", {}, text), h("span.sub", {}, sub));
  const range = h("div.axis", { "aria-hidden": "true" }, h("span", {}, `step ${count(found.step[0])}`), h("span", {}, `step ${count(found.step.at(-1))}`));
  const rows = found.table.map((line, i) => h("tr", {}, h("td", {}, h("span.who", {}, swatch(line.name), h("b", { translate: "no" }, line.name))), h("td.n", {}, percent(line.row_share)), h("td.n", {}, percent(line.loss_share)),
    h("td.n", {}, line.relative === null ? "–" : percent(line.relative)), h("td.n", {}, line.pace === null ? "–" : `${(100 * line.pace).toFixed(1)} %`), h("td.n", {}, line.slope === null ? "–" : `${line.slope > 0 ? "+" : "−"}${Math.abs(100 * line.slope).toFixed(1)} %`), h("td.n", {}, line.probability === null ? "–" : percent(line.probability)), found.factor.length ? h("td.n", {}, fixed(line.factor, 2)) : null));
  const titles = ["Task", "Rows seen", "Loss share", "Loss, of its start", "Pace per 100 steps", "Slope now", "Token probability", found.factor.length ? "Weight factor" : null].filter(Boolean);
  return h("section.card", {}, h("div.card-h", {}, h("h2", {}, "Balance")), note,
    title("Loss of each task, relative to its start", "below 100 % it has learned"), h("div.relative", {}, relativeLines(found), relativeShapes(found)), range,
    title("Share of the loss over time", "what each task's tokens counted"), stacked(found.loss_share, found.names, "Share of the loss"), range.cloneNode(true),
    ...(found.row_share.flat().some(Boolean) ? [title("Rows seen over time", "how often each task came"), stacked(found.row_share, found.names, "Share of the rows"), range.cloneNode(true)] : []),
    found.factor.length ? title("Factor on the task weights", "as the weighting changed them") : null,
    found.factor.length ? stacked(found.factor.map((row) => { const sum = row.reduce((a, b) => a + (b || 0), 0) || 1; return row.map((value) => (value || 0) / sum); }), found.names, "Task weights") : null,
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Balance in numbers" }, stacking(h("table.tasks", {}, h("thead", {}, h("tr", {}, titles.map((text, i) => h(i ? "th.n" : "th", { scope: "col" }, text)))), h("tbody", {}, rows)))));
}

/** Columns of stacked shares, one a bin. */
function stacked(bins, names, label) {
  const last = bins.at(-1) || [];
  const said = names.map((name, i) => `${name} ${percent(last[i])}`).join(", ");
  return h("div.stacked", { role: "img", "aria-label": `${label}, at the end: ${said}` }, ...bins.map((shares) => h("span.col", {}, ...shares.map((share, i) => h("i", { style: { background: filling(names[i]), height: `${100 * share}%` } })))));
}

const SVG = "http://www.w3.org/2000/svg";
/** How high a value stands in the drawing, which is 160 high: all values and the start fit. */
function relativeHeight(found) {
  const known = found.relative.flat().filter((value) => value !== null), low = Math.min(...known, 1), span = Math.max(...known, 1) - low || 1;
  return (value) => 150 - (140 * (value - low)) / span;
}

function relativeLines(found) {
  const steps = found.step.length;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 1000 160");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "relative-lines");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Relative loss, at the end: ${found.table.map((line) => `${line.name} ${percent(line.relative)}`).join(", ")}`);
  const y = relativeHeight(found), x = (at) => (steps > 1 ? (1000 * at) / (steps - 1) : 500);
  const line = (points, stroke, dash) => {
    const path = document.createElementNS(SVG, "polyline");
    for (const [name, text] of Object.entries({ points, fill: "none", "vector-effect": "non-scaling-stroke", "stroke-width": dash ? "1" : "2" })) path.setAttribute(name, text);
    path.style.stroke = stroke;
    if (dash) path.setAttribute("stroke-dasharray", dash);
    svg.append(path);
  };
  line(`0,${y(1)} 1000,${y(1)}`, "var(--st-line-strong)", "4 4");
  found.relative.forEach((values, i) => line(values.map((value, at) => (value === null ? null : `${x(at).toFixed(1)},${y(value).toFixed(1)}`)).filter(Boolean).join(" "), color(found.names[i])));
  return svg;
}

/** The shapes of tasks that have one of their own on their curves: on the page, since the drawing is stretched. */
function relativeShapes(found) {
  const y = relativeHeight(found), last = found.step.length - 1;
  return found.names.flatMap((name, i) => (shapeOf(name) === "square" ? [] : SHAPE_PLACES.map((place) => Math.round((place + i / 100) * last)).filter((at) => found.relative[i][at] !== null && found.relative[i][at] !== undefined)
    .map((at) => { const sign = swatch(name); sign.style.left = `${(100 * at) / Math.max(1, last)}%`; sign.style.top = `${(100 * y(found.relative[i][at])) / 160}%`; return sign; })));
}
const SHAPE_PLACES = [0.1, 0.3, 0.5, 0.7, 0.85];
