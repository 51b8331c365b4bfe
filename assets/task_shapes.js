// The shape of a task (island.js) on a chart and in a picture of it: a second sign beside the colour.
const SHAPE_EVERY = 96; // px between two shapes on a curve

/** Trace a shape around a place; `r` is half its width, px of the canvas. */
function traceShape(context, shape, x, y, r) {
  context.beginPath();
  if (shape === "square") { context.rect(x - r, y - r, 2 * r, 2 * r); return; }
  const corners = shape === "diamond" ? [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]] : [[0, -1.25], [1.25, 1], [-1.25, 1]];
  corners.forEach(([dx, dy], i) => (i ? context.lineTo(x + dx * r, y + dy * r) : context.moveTo(x + dx * r, y + dy * r)));
  context.closePath();
}

/**
 * Draw the shapes of tasks into a uPlot: full ones along the training curve, open ones at the evaluations.  The square is
 * left out: a curve without a shape is that of a square, and evaluations have uPlot's own rings then.
 *
 * tasks: [{name, place, strength}], place being the task's among the columns of mean and evals: [xs, [ys, ...]].
 */
function drawShapes(u, tasks, mean, evals) {
  const { left, top, width, height } = u.bbox, scale = devicePixelRatio, context = u.ctx;
  context.save();
  context.beginPath(); context.rect(left, top, width, height); context.clip();
  context.setLineDash([]);
  for (const [turn, { name, place, strength }] of tasks.entries()) {
    const shape = shapeOf(name);
    if (shape === "square") continue;
    const colour = faded(taskColor(name), strength), ground = cssColor("--st-card");
    Object.assign(context, { fillStyle: colour, strokeStyle: colour, lineWidth: 2 * scale });
    for (let x = left + ((0.5 + turn / tasks.length) % 1) * SHAPE_EVERY * scale; x < left + width; x += SHAPE_EVERY * scale) {
      const y = heightAt(u, mean[0], mean[1][place], x);
      if (y !== null) { traceShape(context, shape, x, y, 4 * scale); context.fill(); }
    }
    if (evals[0].length > 60) continue;
    evals[1][place].forEach((value, i) => {
      if (!isNumber(value)) return;
      traceShape(context, shape, u.valToPos(evals[0][i], "x", true), u.valToPos(value, "y", true), 3.5 * scale);
      context.fillStyle = ground; context.fill(); context.stroke();
    });
  }
  context.restore();
}

/** Where a curve passes a place of the canvas, on the straight line between its two neighbours there; null outside of it. */
function heightAt(u, xs, ys, x) {
  const at = u.posToVal(x, "x", true);
  let right = lowerBound(xs, at), before = right - 1;
  while (right < xs.length && !isNumber(ys[right])) right += 1;
  while (before >= 0 && !isNumber(ys[before])) before -= 1;
  if (before < 0 || right >= xs.length) return null;
  const [x0, x1] = [before, right].map((i) => u.valToPos(xs[i], "x", true)), [y0, y1] = [before, right].map((i) => u.valToPos(ys[i], "y", true));
  return x1 > x0 ? y0 + ((y1 - y0) * (x - x0)) / (x1 - x0) : y0;
}
