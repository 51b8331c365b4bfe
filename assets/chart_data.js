// Curves as a chart keeps them: put together from what the server sends (studio/charts.py), smoothed, on one x axis.
//
//   part: {first, width, row, step, time, tokens, values: [[y per row] per series], mean: null | {row: bin, step, ...}}
const cssColors = new Map(); // what the theme says, until it changes: a drawing asks hundreds of times
new MutationObserver(() => cssColors.clear()).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
function cssColor(name) {
  if (!cssColors.has(name)) cssColors.set(name, getComputedStyle(document.body).getPropertyValue(name).trim());
  return cssColors.get(name);
}
const taskColor = (task) => cssColor(color(task).slice(4, -1));
const faded = (hex, part) => hex + Math.round(part * 255).toString(16).padStart(2, "0");
const fixed = (value, digits = 3) => (value === null || value === undefined || !isFinite(value) ? "–" : value.toFixed(digits));
const WHOLE_STEPS = [1, 10, 100, 1000, 10000, 100000, 1e6, 1e7, 1e8].flatMap((power) => [power, 2 * power, 5 * power]);
const brief = (value) => (value >= 1e9 ? `${+(value / 1e9).toFixed(2)}G` : value >= 1e6 ? `${+(value / 1e6).toFixed(2)}M` : value >= 1e3 ? `${+(value / 1e3).toFixed(1)}k` : `${+value.toPrecision(3)}`);
const isNumber = (value) => value !== null && value !== undefined;

/** Where in rising numbers the first one >= value stands. */
function lowerBound(numbers, value) {
  let low = 0, high = numbers.length;
  while (low < high) { const middle = (low + high) >> 1; if (numbers[middle] < value) low = middle + 1; else high = middle; }
  return low;
}

/** Put a new part behind what is known, in place of the bins that were not full; returns the whole. */
function joined(known, part) {
  if (!known || part.first === 0) return part;
  const extend = (old, more, from) => {
    const at = lowerBound(old.row, from);
    for (const key of ["row", "step", "time", "tokens"]) { old[key].length = at; old[key].push(...more[key]); }
    old.values.forEach((values, i) => { values.length = at; values.push(...more.values[i]); });
  };
  extend(known, part, part.first * part.width);
  if (part.mean) extend(known.mean, part.mean, part.first);
  return known;
}

/** The x of every row: steps, tokens seen, or seconds since `origin`. */
const xsOf = (table, axis, origin) => (axis === "time" ? table.time.map((time) => time - origin) : table[axis]);

const POINTS_OF_RANGE = 200;

/**
 * Exponential moving average over x, as W&B's: the weight is for one of `n` equal parts of the range, n being the points
 * in it or POINTS_OF_RANGE if there are more; so it does not depend on how far the curves are thinned.  Skips gaps.
 */
function smooth(xs, values, weight, range, n) {
  if (!weight) return values;
  const unit = range / Math.max(1, Math.min(n, POINTS_OF_RANGE)) || 1;
  let sum = 0, norm = 0, last = null;
  return values.map((value, i) => {
    if (!isNumber(value)) return null;
    const kept = last === null ? 0 : weight ** ((xs[i] - last) / unit);
    last = xs[i];
    sum = sum * kept + value * (1 - weight);
    norm = norm * kept + 1 - weight;
    return sum / norm;
  });
}

/** Put tables [xs, [ys, ...]] on the union of their x; where a table has no row its series hold null. */
function align(tables) {
  const at = tables.map(() => 0), places = tables.map(([xs]) => new Int32Array(xs.length)), x = [];
  for (;;) {
    let next = Infinity;
    tables.forEach(([xs], t) => { if (at[t] < xs.length && xs[at[t]] < next) next = xs[at[t]]; });
    if (next === Infinity) break;
    tables.forEach(([xs], t) => { while (at[t] < xs.length && !(xs[at[t]] > next)) { places[t][at[t]] = x.length; at[t] += 1; } });
    x.push(next);
  }
  const spread = (values, place) => { const found = new Array(x.length).fill(null); values.forEach((value, i) => { if (isNumber(value)) found[place[i]] = value; }); return found; };
  return [x, ...tables.flatMap(([, columns], t) => columns.map((values) => spread(values, places[t])))];
}

/** The number nearest to x among those that are none gap; null if there is none. */
function nearest(xs, values, x) {
  let right = lowerBound(xs, x), left = right - 1;
  while (right < xs.length && !isNumber(values[right])) right += 1;
  while (left >= 0 && !isNumber(values[left])) left -= 1;
  if (left < 0 && right >= xs.length) return null;
  return left >= 0 && (right >= xs.length || x - xs[left] <= xs[right] - x) ? values[left] : values[right];
}

/** The number at x or the last one before it, else the first one; null if there is none. */
function lastBefore(xs, values, x) {
  for (let i = Math.min(lowerBound(xs, x + 1e-9), xs.length) - 1; i >= 0; i -= 1) if (isNumber(values[i])) return values[i];
  return null;
}

const firstNumber = (values) => values.find(isNumber) ?? null;
const lastNumber = (values) => values.findLast(isNumber) ?? null;

/** What people chose, for the next visit; a browser that forbids storage, or holds something else there, changes nothing. */
const CHART_SETTINGS = "studio.chart";
function loadChartSettings() {
  const found = { weight: 0.6, log: false, relative: false, x: "step", hidden: [] };
  try {
    const kept = JSON.parse(localStorage.getItem(CHART_SETTINGS)) || {};
    if (kept.weight >= 0 && kept.weight <= 0.99) found.weight = kept.weight;
    if (["step", "tokens", "time"].includes(kept.x)) found.x = kept.x;
    for (const key of ["log", "relative"]) if (typeof kept[key] === "boolean") found[key] = kept[key];
    if (Array.isArray(kept.hidden)) found.hidden = kept.hidden.filter((name) => typeof name === "string").slice(0, 100);
  } catch (error) { /* as on a first visit */ }
  return found;
}
function keepChartSettings(options) {
  try { localStorage.setItem(CHART_SETTINGS, JSON.stringify({ ...options, hidden: [...options.hidden] })); } catch (error) { /* for this page only */ }
}
