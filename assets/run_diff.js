// How an answer differs from the wanted one: words, by their longest common subsequence; lines where there are too many
// words; nothing where there are too many lines.  difference(gold, output) -> {parts: [[kind, text]], common}, or null.
const MAX_PIECES = 900; // cells of the table: the square of it, half a second on a slow machine

const wordsOf = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];
const linesOf = (text) => text.match(/[^\n]*\n|[^\n]+/g) || [];

/** parts: kinds are "same", "extra" (only in the answer) and "missing" (only in the wanted one); common: 0 to 1. */
function difference(gold, output) {
  for (const split of [wordsOf, linesOf]) {
    const [wanted, given] = [split(gold), split(output)];
    let start = 0, end = 0;
    while (start < wanted.length && start < given.length && wanted[start] === given[start]) start += 1;
    while (end < Math.min(wanted.length, given.length) - start && wanted[wanted.length - 1 - end] === given[given.length - 1 - end]) end += 1;
    const [a, b] = [wanted.slice(start, wanted.length - end), given.slice(start, given.length - end)];
    if (Math.max(a.length, b.length) > MAX_PIECES) continue;
    const parts = [["same", wanted.slice(0, start).join("")], ...between(a, b), ["same", end ? wanted.slice(-end).join("") : ""]];
    return { parts: grouped(parts), common: share(parts) };
  }
  return null;
}

/** The shortest way from one list of pieces to another. */
function between(a, b) {
  const width = b.length + 1, table = new Uint16Array((a.length + 1) * width); // longest common part of a[i..], b[j..]
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      table[i * width + j] = a[i] === b[j] ? table[(i + 1) * width + j + 1] + 1 : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const parts = [];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) { parts.push(["same", a[i]]); i += 1; j += 1; }
    else if (i < a.length && (j === b.length || table[(i + 1) * width + j] >= table[i * width + j + 1])) { parts.push(["missing", a[i]]); i += 1; }
    else { parts.push(["extra", b[j]]); j += 1; }
  }
  return parts;
}

/** Neighbours of a kind as one part; a change and the next, with only spaces between them, are one change. */
function grouped(parts) {
  const found = [];
  let missing = "", extra = "", gap = "";
  const end = () => {
    if (missing) found.push(["missing", missing]);
    if (extra) found.push(["extra", extra]);
    if (gap) found.push(["same", gap]);
    missing = extra = gap = "";
  };
  for (const [kind, text] of parts) {
    if (!text) continue;
    if (kind !== "same") {
      missing += gap + (kind === "missing" ? text : "");
      extra += gap + (kind === "extra" ? text : "");
      gap = "";
    } else if ((missing || extra) && !gap && !text.trim()) gap = text;
    else { end(); gap = text; end(); }
  }
  end();
  return found.reduce((all, [kind, text]) => {
    if (all.length && all[all.length - 1][0] === kind) all[all.length - 1][1] += text; else all.push([kind, text]);
    return all;
  }, []);
}

/** How much of both texts is common, by characters that are no space; two empty texts are the same. */
function share(parts) {
  const sums = { same: 0, extra: 0, missing: 0 };
  for (const [kind, text] of parts) sums[kind] += text.replace(/\s+/g, "").length;
  const all = 2 * sums.same + sums.extra + sums.missing;
  return all ? (2 * sums.same) / all : 1;
}
