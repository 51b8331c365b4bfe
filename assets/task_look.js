// A closer look at one task.  value: {name, tokens, text, insight, can_clean}; see studio/logic/task_look.py
// `retry` asks for the search, `edit` with {remove: [...]} makes a cleaned task.
function draw(value) {
  if (!value.name) { root().replaceChildren(); return; }
  root().replaceChildren(h("section.card.detail", { "aria-label": `A closer look at ${value.name}` },
    tokens(value.tokens || {}), text(value.text || {}), insight(value)));
}

const section = (title, ...children) => h("section.look", {}, h("h3", {}, title), ...children);
const sentence = (found) => found.problem ? h("div.note.bad", {}, rich(found.problem)) : found.measuring ? h("p.sub", { role: "status" }, found.measuring) : null;

function tokens(found) {
  if (!found.bars) return section("Tokens", sentence(found));
  const top = Math.max(...found.bars.map(([, number]) => number), 1), last = found.bars.at(-1)[0];
  const bars = found.bars.map(([end, number]) => h(end > found.max_length ? "span.long" : "span", { title: `up to ${count(end)} tokens: ${count(number)}`, style: { height: `${Math.max(number ? 2 : 0, (100 * number) / top)}%` } }));
  const line = found.max_length < last ? h("i.limit", { style: { left: `${(100 * found.max_length) / last}%` } }, h("b", {}, `max length ${count(found.max_length)}`)) : null;
  const [p50, p95, longest] = found.lengths;
  const share = found.num_examples ? found.num_too_long / found.num_examples : 0;
  const said = `${count(found.num_examples)} examples, ${count(found.num_tokens)} tokens, ${count(found.num_supervised)} of them learned; length p50 ${p50}, p95 ${p95}, max ${longest}`;
  return section("Tokens", h("div.histogram", { role: "img", "aria-label": said }, ...bars, line),
    h("div.axis", { "aria-hidden": "true" }, h("span", {}, "0"), h("span", {}, `${count(last)} tokens`)),
    h("p.sub", {}, `${said}. `, h(found.num_too_long ? "b.often" : "span", {}, found.num_too_long ? `${count(found.num_too_long)} (${(100 * share).toFixed(1)} %) are too long.` : "None is too long.")),
    ...(found.notes || []).map((note) => h("div.note.warn", {}, note)));
}

function text(found) {
  if (!found.examples) return section("Training text", sentence(found));
  const legend = h("p.sub", {}, "Exactly what the model sees, one box a token. ", h("mark.learned", {}, "This"), " is learned, the rest is read.");
  return section("Training text", legend, ...found.examples.map((example) => h("article.example", {},
    h("div.sub", {}, `${example.file ? `${example.file}, ` : ""}line ${example.line}` + (example.refused ? "" : ` · ${count(example.num_tokens)} tokens, ${count(example.num_supervised)} learned`)),
    example.refused ? h("div.note.warn", {}, example.refused) : h("pre.tokens", { tabindex: "0" }, ...example.stretches.map(([learned, words]) =>
      h(learned ? "mark.learned" : "span", {}, ...words.map((word) => h("span.t", {}, word)))), example.num_cut ? `\n[... ${count(example.num_cut)} more tokens]` : ""))));
}

function insight(value) {
  const state = value.insight || {};
  if (state.running) return section("Duplicates and leaks", h("p.sub", { role: "status" }, `Looking: ${state.running} ...`));
  const ask = h("button.ibtn", { type: "button", onclick: () => tell("retry", {}) }, state.insight ? "Look again" : "Look for duplicates, leaks and HumanEval problems");
  if (!state.insight) return section("Duplicates and leaks", sentence(state), ask);
  const found = state.insight;
  const facts = [
    ["Answers a conversation", histogram(found.turns)],
    ["Characters an answer", `p50 ${count(found.answer_characters.p50)}, p95 ${count(found.answer_characters.p95)}, max ${count(found.answer_characters.max)}`],
    ["Code", found.num_fenced ? `${count(found.num_fenced)} examples with fences: ${Object.entries(found.languages).slice(0, 6).map(([name, number]) => `${name} ${count(number)}`).join(", ")}` : "no code fences"],
    ["Exact copies", lines(found.num_exact, found.exact.map(([a, b]) => `line ${b} = line ${a}`))],
    ["Near copies", lines(found.num_near, found.near.map(([a, b, s]) => `line ${b} ≈ line ${a} (${s.toFixed(2)})`))],
    ["HumanEval problems", lines(found.num_contaminated, found.contaminated.map((hit) => `line ${hit.line}: ${hit.task_id} (${hit.part})`))],
    found.num_in_heldout === null ? null : ["Held out too", lines(found.num_in_heldout, found.in_heldout.map(([a, b]) => `line ${b} = held-out line ${a}`))],
    ["In other tasks too", found.overlaps.length ? found.overlaps.map(([name, number]) => `${count(number)} in ${name.split("/").slice(-2).join("/")}`).join(", ") : "none"],
  ].filter(Boolean);
  return section("Duplicates and leaks", h("dl.found", {}, facts.flatMap(([name, words]) => [h("dt", {}, name), h("dd", {}, words)])), cleaning(found), ask);
}

const histogram = (turns) => Object.entries(turns).slice(0, 8).map(([number, examples]) => `${number}: ${count(examples)}`).join(", ");
const lines = (number, told) => (number ? h("details", {}, h("summary", {}, count(number)), h("ul", {}, ...told.map((line) => h("li", {}, line)), number > told.length ? h("li", {}, `and ${count(number - told.length)} more`) : null)) : "none");

function cleaning(found) {
  const kinds = [["exact_duplicates", "exact copies", found.num_exact], ["near_duplicates", "near copies", found.num_near],
    ["contaminated", "HumanEval problems", found.num_contaminated], ["heldout_overlap", "what is held out too", found.num_in_heldout || 0]].filter(([, , number]) => number);
  if (!kinds.length) return null;
  const boxes = kinds.map(([key, label]) => h("label", {}, h("input", { type: "checkbox", checked: true, value: key }), ` ${label}`));
  const go = h("button.ibtn", { type: "button", onclick: () => {
    const remove = boxes.map((box) => box.firstChild).filter((box) => box.checked).map((box) => box.value);
    if (remove.length) tell("edit", { remove });
  } }, "Make a cleaned task");
  return h("fieldset.cleaning", {}, h("legend", {}, "A new task without"), ...boxes, go);
}
