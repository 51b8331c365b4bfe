// Search the Hugging Face hub for a model.  value: HubSearch as plain values; see studio/logic/hub_search.py
// Typing asks through `input` {asked}; a choice tells `submit` {picked}.  A combobox: arrows, Enter, Escape, Home and End of the list.
const WAIT_MS = 350, FEWEST = 2;
let field = null, list = null, said = null, timer = 0, active = -1, asked = "", picked = "";

const compact = (number) => new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 }).format(number);
const options = () => [...list.children];

function build() {
  field = h("input.search.hub-words", { type: "search", id: "hub-words", role: "combobox", autocomplete: "off", spellcheck: false, maxLength: 96, "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": "hub-found",
    placeholder: "for example: qwen coder", oninput: () => { picked = ""; clearTimeout(timer); timer = setTimeout(request, WAIT_MS); }, onkeydown: keys });
  said = h("p.sub.hub-said", { role: "status", id: "hub-said" });
  list = h("ul.hub-found", { id: "hub-found", role: "listbox", "aria-label": "Models of the hub", hidden: true });
  root().replaceChildren(h("label.hub-label", { for: "hub-words" }, "Search the Hugging Face hub"), field, said, list);
}

function request() {
  const words = field.value.trim();
  clearTimeout(timer);
  if (words.length < FEWEST) { asked = ""; show([]); said.textContent = ""; return; }
  if (words === asked) return;
  asked = words;
  show([]);
  said.textContent = "Searching ...";
  tell("input", { asked: words, state: "searching", models: [] });
}

function show(nodes) {
  active = -1;
  field.removeAttribute("aria-activedescendant");
  list.replaceChildren(...nodes);
  list.hidden = !nodes.length;
  field.setAttribute("aria-expanded", String(nodes.length > 0));
}

function mark(index) {
  const all = options();
  all.forEach((node, i) => node.setAttribute("aria-selected", String(i === index)));
  active = index;
  if (index < 0) { field.removeAttribute("aria-activedescendant"); return; }
  field.setAttribute("aria-activedescendant", all[index].id);
  all[index].scrollIntoView({ block: "nearest" });
}

function pick(name) {
  picked = name;
  show([]);
  said.replaceChildren("Chosen:", " ", h("b", { translate: "no" }, name));
  field.focus();
  tell("submit", { picked: name, nonce: Date.now() });
}

function keys(event) {
  const last = options().length - 1;
  const to = { ArrowDown: active >= last ? 0 : active + 1, ArrowUp: active <= 0 ? last : active - 1 }[event.key];
  if (to !== undefined && last >= 0) { event.preventDefault(); mark(to); }
  else if (event.key === "Enter") { event.preventDefault(); if (active >= 0) pick(options()[active].dataset.name); else request(); }
  else if (event.key === "Escape" && last >= 0) { event.preventDefault(); event.stopPropagation(); show([]); said.textContent = ""; asked = ""; }
}

function row(model, index) {
  const facts = [model.weights ? `${compact(model.weights)} weights` : null, `${compact(model.downloads)} downloads a month`, model.licence || "no licence named"].filter(Boolean);
  return h("li", { role: "option", id: `hub-option-${index}`, "aria-selected": "false", "data-name": model.name, onmousedown: (event) => event.preventDefault(), onclick: () => pick(model.name) },
    h("b", { translate: "no" }, model.name), model.gated ? h("span.pill.warn", {}, h("i"), "gated") : null, h("span.sub.num", {}, facts.flatMap((fact, i) => [i ? " · " : null, h("span", i === facts.length - 1 && model.licence ? { translate: "no" } : {}, fact)])));
}

function draw(value) {
  if (!field || !root().contains(field)) build();
  if (value.state === "searching" || picked || (value.query || "") !== asked) return; // an answer to what is no longer asked
  const found = value.models || [];
  show(value.state === "results" ? found.map(row) : []);
  const sentence = { results: `${found.length} models, the most downloaded first`, none: "The hub has no model of that name that writes text.", offline: value.text, error: value.text }[value.state];
  said.replaceChildren(sentence || "", ...(value.account ? [" · ", h("span", {}, "logged in as"), " ", h("b", { translate: "no" }, value.account)] : []),
    value.state === "offline" ? " " : "", value.state === "offline" ? h("span", {}, "A folder or file on this machine needs no hub.") : "");
  said.classList.toggle("bad", value.state === "error");
}
