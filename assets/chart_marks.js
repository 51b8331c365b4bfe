// What happened at a step, on the chart: lines with a word for what changes how a curve is read, small signs above the
// axis for what comes again and again.  mark: {step, kind, text}, see studio/logic/snapshot.py; `best` is ours.
const MARK_LINES = { best: ["--st-ok", "best"], resume: ["--st-text-2", "resume"], stop: ["--st-text-2", "stop"], early_stop: ["--st-warn", "early stop"], spike: ["--st-warn", "spike"], nan: ["--st-bad", "NaN"], problem: ["--st-bad", "problem"] };
const MARK_SIGNS = { eval: "Evaluation", save: "Checkpoint" };
const MARK_NEAR = 8;
const LABEL_ROWS = 3;

/** The signs and their meaning, beside those of the lines. */
const markKey = () => Object.entries(MARK_SIGNS).map(([kind, title]) => h("span", {}, h(`i.sign.${kind}`), title));

/** Draw marks into a uPlot; `xOf` tells where a step stands.  Signs that would touch are drawn once, words where there is room. */
function drawMarks(u, marks, xOf) {
  const { left, top, width, height } = u.bbox, scale = devicePixelRatio, context = u.ctx;
  const placed = marks.map((mark) => ({ ...mark, at: u.valToPos(xOf(mark.step), "x", true) })).filter((mark) => mark.at >= left && mark.at <= left + width).sort((a, b) => a.at - b.at);
  const lastSign = {}, rowEnds = Array(LABEL_ROWS).fill(-Infinity);
  let lastLine = {};
  context.save();
  Object.assign(context, { font: `600 ${11 * scale}px system-ui, sans-serif`, textAlign: "left", textBaseline: "alphabetic" });
  for (const mark of placed) {
    if (mark.kind in MARK_SIGNS) {
      if (mark.at - (lastSign[mark.kind] ?? -Infinity) < 12 * scale) continue;
      lastSign[mark.kind] = mark.at;
      drawSign(context, mark.kind, mark.at, top + height - (mark.kind === "save" ? 6 : 15) * scale, scale);
      continue;
    }
    const [name, word] = MARK_LINES[mark.kind] || [];
    if (!name || mark.at - (lastLine[mark.kind] ?? -Infinity) < 2 * scale) continue;
    lastLine = { ...lastLine, [mark.kind]: mark.at };
    Object.assign(context, { strokeStyle: cssColor(name), fillStyle: cssColor(name), lineWidth: scale });
    context.setLineDash([3 * scale, 3 * scale]);
    context.beginPath(); context.moveTo(mark.at, top); context.lineTo(mark.at, top + height); context.stroke();
    const text = said(word), room = context.measureText(text).width, leftward = mark.at + room + 6 * scale > left + width;
    const from = leftward ? mark.at - room - 4 * scale : mark.at + 4 * scale, row = rowEnds.findIndex((end) => end < from);
    if (row < 0) continue;
    rowEnds[row] = from + room + 6 * scale;
    context.fillText(text, from, top + (11 + 14 * row) * scale);
  }
  context.restore();
}

/** An open ring for an evaluation, a full square for a checkpoint: told apart without colour. */
function drawSign(context, kind, x, y, scale) {
  const colour = cssColor("--st-text-2");
  context.setLineDash([]);
  context.beginPath();
  if (kind === "eval") { Object.assign(context, { strokeStyle: colour, lineWidth: 1.25 * scale }); context.arc(x, y, 2.75 * scale, 0, 7); context.stroke(); } else { context.fillStyle = colour; context.fillRect(x - 2.5 * scale, y - 2.5 * scale, 5 * scale, 5 * scale); }
}

/** Marks whose line or sign is near a place of the plot, in px from its left edge: one of each kind, the nearest. */
function marksNear(u, marks, xOf, left) {
  const found = {};
  for (const mark of marks) {
    const away = Math.abs(u.valToPos(xOf(mark.step), "x") - left);
    if (away <= MARK_NEAR && away < (found[mark.kind]?.away ?? Infinity)) found[mark.kind] = { ...mark, away };
  }
  return Object.values(found);
}

/** All marks in words, for those who do not see the chart. */
function marksInWords(marks) {
  const of = (kind) => marks.filter((mark) => mark.kind === kind), lines = [];
  for (const mark of of("best")) lines.push(`Best evaluation at step ${count(mark.step)}.`);
  if (of("eval").length) lines.push(`Evaluations: ${count(of("eval").length)}, the last at step ${count(of("eval").at(-1).step)}.`);
  if (of("save").length) lines.push(`Checkpoints: ${count(of("save").length)}, the last at step ${count(of("save").at(-1).step)}.`);
  for (const mark of marks.filter((one) => one.kind in MARK_LINES && one.kind !== "best").slice(-20)) lines.push(`Step ${count(mark.step)}: ${mark.text || said(MARK_LINES[mark.kind][1])}`);
  return lines;
}
