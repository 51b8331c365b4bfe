// Two conversations side by side.  value: {columns: [{side, name, turns: [{role, content, over?, state?}]}], phase?, answering?, finished?,
// problem?, fix?, note?, empty?, gold?, held_in?, seat?, memory?}; see studio/logic/chat.py.  Also the keys of the page and its draft.
const DRAFT = "studio.chat.draft";
const live = h("div.st-unseen", { role: "status", "aria-live": "polite" });
const place = h("div.chat-place");
let shown = null, known = {};

/** Model text as text: code fences become code blocks, everything else stays a paragraph. Never markup. */
function prose(text) {
  return String(text || "").split("```").map((part, index) => {
    if (index % 2 === 0) return part.trim() ? h("p.say", {}, part.replace(/^\n+|\n+$/g, "")) : null;
    const newline = part.indexOf("\n");
    return h("pre", { tabindex: "0" }, newline >= 0 ? part.slice(newline + 1).replace(/\n+$/, "") : part);
  }).filter(Boolean);
}

function copyButton(text) {
  const button = h("button.ibtn.copy-answer", { type: "button", onclick: () => copy(text, button) }, "Copy");
  return button;
}

function stateLine(state) {
  if (!state) return null;
  const facts = [["span", {}, state.speaker], ["span.num", {}, `${count(state.tokens)} tokens`], ["span.num", {}, `${state.seconds.toFixed(1)} s`], ["span", {}, state.stop_reason], state.sampled ? ["span.num", {}, `seed ${state.seed}`] : null];
  return h("p.sub.state-line", {}, facts.filter(Boolean).map((fact) => h(...fact)), state.notes.map((note) => h("span.note-line", {}, note)));
}

function turn(item) {
  if (item.role === "user") return h("div.turn-box.user", {}, h("div.who", {}, "You"), h("div.text", { translate: "no" }, prose(item.content)));
  return h("div.turn-box.assistant", {}, h("div.who", {}, h("span", {}, "Model"), h("span.grow"), item.state && item.content ? copyButton(item.content) : null),
    item.content ? h("div.text", { translate: "no" }, prose(item.content)) : h("div.text", {}, h("p.sub", {}, item.state ? "It said nothing." : "…")), stateLine(item.state));
}

function column(value, side) {
  const last = side.turns[side.turns.length - 1], waiting = last && !last.state && !last.over;
  const title = side.name === "base" ? h("h2", {}, "Base model") : h("h2", { translate: "no" }, side.name || " ");
  const where = side.side === "left" ? "Left" : "Right";
  const hint = side.name === "base" ? "What the model says before the fine-tuning." : "What this model says appears here.";
  return h("section.card.column", { "aria-label": where, "data-side": side.side, "aria-busy": value.answering && waiting ? "true" : null },
    h("div.card-h", {}, title, value.answering && waiting ? h("span.pill.ok.live", {}, h("i"), "answering") : null),
    side.turns.length ? side.turns.map(turn) : h("p.empty", {}, hint));
}

function facts(value) {
  const memory = value.memory || {};
  const lines = [value.held_in ? h("span", {}, `Base model in memory: ${value.held_in}`) : null,
    memory.memory_bytes ? h("span.num", {}, `Memory of the chat process: ${size(memory.memory_bytes)}`) : null,
    memory.gpu_bytes ? h("span.num", {}, `On the GPU: ${size(memory.gpu_bytes)}`) : null, value.seat ? h("span.note-line", {}, value.seat) : null].filter(Boolean);
  return lines.length ? h("p.sub.state-line", { id: "chat-facts" }, lines) : null;
}

/** Whether only the words of the last turns differ, as in a streaming answer: then nothing but them is drawn again. */
function onlyWords(value) {
  if (!shown || !value.answering || !shown.answering || shown.phase !== value.phase) return false;
  return value.columns.every((side, index) => { const old = shown.columns[index]; return old.turns.length === side.turns.length && old.name === side.name && side.turns.every((item, at) => Boolean(item.state || item.over) === Boolean(old.turns[at].state || old.turns[at].over)); });
}

function say(value) {
  if (!value.finished || (shown && shown.finished)) return;
  live.replaceChildren(...value.columns.map((side) => h("p", {}, side.side === "left" ? "Left answer: " : "Right answer: ", h("span", { translate: "no" }, side.turns.length ? side.turns[side.turns.length - 1].content : ""))));
}

function draw(value) {
  if (!root().contains(place)) { root().replaceChildren(live, place); watchPage(); }
  known = value;
  if (value.finished && !(shown && shown.finished)) keepDraft();
  if (onlyWords(value)) {
    value.columns.forEach((side) => {
      const last = side.turns[side.turns.length - 1], text = place.querySelector(`[data-side="${side.side}"] .turn-box:last-of-type .text`);
      if (!last || last.state || last.over || !last.content || !text) return;
      const follows = text.scrollHeight - text.scrollTop - text.clientHeight < 24;
      text.replaceChildren(...prose(last.content));
      if (follows) text.scrollTop = text.scrollHeight;
    });
    shown = value;
    return;
  }
  const problem = value.problem ? h("div", { role: "alert" }, h("ul.notes", {}, h("li.bad", {}, h("span.mark", { "aria-hidden": "true" }, "!"), h("span", {}, rich(value.problem), value.fix ? h("span.fix", {}, " ", rich(value.fix)) : null)))) : null;
  const phase = value.phase ? h("p.phase", { role: "status" }, h("span.pill.live", {}, h("i"), "Loading"), h("span.sub", {}, value.phase)) : null;
  const note = value.note ? h("p.sub", { role: "status" }, value.note) : null;
  const empty = value.empty ? h("p.card.empty", {}, value.empty, " ", h("a", { href: "/new" }, "New run")) : null;
  const gold = value.gold ? h("details.card.gold", { open: true }, h("summary", {}, "The answer in the data"), h("div.text", { translate: "no" }, prose(value.gold))) : null;
  const columns = h("div.columns", {}, value.columns.map((side) => column(value, side)));
  place.replaceChildren(...[problem, phase, note, empty || columns, facts(value), gold].filter(Boolean));
  place.querySelectorAll(".turn-box:last-of-type .text").forEach((text) => { text.scrollTop = text.scrollHeight; });
  say(value);
  shown = value;
}

// ---- keys and draft
const box = () => document.querySelector("#chat-question textarea");
/** After an answer the draft is what was written meanwhile, if anything. */
function keepDraft() {
  try { if (box() && box().value) sessionStorage.setItem(DRAFT, box().value); else sessionStorage.removeItem(DRAFT); } catch (error) { /* no storage: no draft */ }
}

function restoreDraft(tries) {
  let draft = null;
  try { draft = sessionStorage.getItem(DRAFT); } catch (error) { return; }
  if (!draft) return;
  if (!box()) { if (tries > 0) setTimeout(() => restoreDraft(tries - 1), 100); return; }
  if (box().value) return;
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box(), draft);
  box().dispatchEvent(new Event("input", { bubbles: true }));
}

function watchPage() {
  document.addEventListener("input", (event) => { if (event.target === box()) { try { sessionStorage.setItem(DRAFT, box().value); } catch (error) { /* no storage */ } } });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !(known.answering || known.phase)) return;
    const stop = document.querySelector("#chat-stop");
    if (stop) stop.click();
  });
  restoreDraft(100);
}
