// Stands in front of every island script (see studio/islands.py).  `element`, `props`, `trigger`, `watch` come from gr.HTML.
const root = () => element.querySelector(".island");
let drawn = null;

/** Build an element: h("p.note", {title: "x", onclick: f}, "text", child, ...). Strings become text, never markup. */
function h(spec, attributes, ...children) {
  const [tag, ...classes] = spec.split(".");
  const node = document.createElement(tag || "div");
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.entries(value).forEach(([name, text]) => node.style.setProperty(name, text));
    else if (key in node && typeof value !== "string") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
  return node;
}

/** Split `code` words out of a sentence; everything stays text. */
const rich = (text) => String(text || "").split("`").map((part, index, all) => (index % 2 && index < all.length - 1 ? h("code", {}, part) : part));

/** Merge a patch into the value without drawing again, and fire an event of the component. */
function tell(event, patch) {
  const value = { ...props.value, ...patch };
  drawn = JSON.stringify(value);
  props.value = value;
  trigger(event);
}

function redraw() {
  const text = JSON.stringify(props.value);
  if (text === drawn) return; // our own echo: keep focus and caret
  drawn = text;
  draw(props.value || {});
}

function start() {
  watch("value", redraw);
  redraw();
}

/** Keep what is chosen in the address, so that a link opens the same view; what is empty is taken out. */
function keepAddress(chosen) {
  const url = new URL(location.href);
  for (const [name, text] of Object.entries(chosen)) { if (text) url.searchParams.set(name, text); else url.searchParams.delete(name); }
  if (url.href !== location.href) history.replaceState(history.state, "", url);
}

/**
 * Tabs whose choice stands in the address as ?tab=name, so that a link opens the same view; returns [tablist, ...panels].
 * panels: [name, title, () => nodes]; arrow keys, Home and End move between the tabs.
 */
function tabs(label, panels) {
  const wanted = new URL(location.href).searchParams.get("tab"), first = Math.max(0, panels.findIndex(([name]) => name === wanted));
  const bodies = panels.map(([name, , build]) => h("div.panel-body", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, tabIndex: 0 }, build()));
  const list = h("div.tabs-line", { role: "tablist", "aria-label": label });
  const choose = (chosen) => {
    [...list.children].forEach((tab, i) => { tab.setAttribute("aria-selected", String(i === chosen)); tab.tabIndex = i === chosen ? 0 : -1; bodies[i].hidden = i !== chosen; });
    keepAddress({ tab: chosen === 0 ? "" : panels[chosen][0] });
    requestAnimationFrame(() => { // on a narrow screen the line scrolls: the chosen tab comes into it, the page stays where it is
      const tab = list.children[chosen];
      list.scrollLeft += tab.getBoundingClientRect().left - list.getBoundingClientRect().left - (list.clientWidth - tab.offsetWidth) / 2;
    });
  };
  panels.forEach(([name, title], i) => list.append(h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, onclick: () => choose(i),
    onkeydown: (event) => {
      const to = { ArrowRight: (i + 1) % panels.length, ArrowLeft: (i + panels.length - 1) % panels.length, Home: 0, End: panels.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(to);
      list.children[to].focus();
    } }, title)));
  choose(first);
  return [list, ...bodies];
}

/** Ask in a dialog of the page; resolves to whether people said yes. The careful answer has the focus. */
function ask({ title, body, go, keep = "Keep it running" }) {
  return new Promise((resolve) => {
    const dialog = h("dialog.st-dlg", { "aria-labelledby": "dlg-title" }, h("h3", { id: "dlg-title" }, title), h("p", {}, body),
      h("div.row", {}, h("button", { type: "button", onclick: () => dialog.close("") }, keep), h("button.go", { type: "button", onclick: () => dialog.close("go") }, go)));
    dialog.addEventListener("close", () => { resolve(dialog.returnValue === "go"); dialog.remove(); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Copy text and say on the button whether it went; a page that comes over plain http from another machine has no clipboard, only the old way. */
async function copy(text, button) {
  const before = button.textContent;
  let done = true;
  try { if (navigator.clipboard) await navigator.clipboard.writeText(text); else done = copyBySelecting(text); } catch (error) { done = false; }
  button.textContent = done ? "Copied" : "Not allowed";
  setTimeout(() => { button.textContent = before; }, 1500);
}

function copyBySelecting(text) {
  const field = h("textarea", { readOnly: true, style: { position: "fixed", opacity: "0" } }), focused = document.activeElement;
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}

/** A text of ours or of the run, to be copied. */
function copyBlock(label, text) {
  const button = h("button.ibtn", { type: "button", "aria-label": `Copy: ${label}`, onclick: () => copy(text, button) }, "Copy");
  return h("div.copy", {}, h("div.card-h", {}, h("h3", {}, label), h("div.grow"), button), h("pre", { tabindex: "0", translate: "no" }, text));
}

/** Let the lines of a table be blocks on a phone: each number tells the title of its column itself. */
function stacking(table) {
  const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  for (const row of table.tBodies[0].rows) [...row.cells].forEach((cell, i) => { if (i) cell.setAttribute("data-said", titles[i]); });
  table.classList.add("stacking");
  return table;
}

/** An icon of assets/icons (Lucide, ISC), painted in the colour of the text around it. */
const icon = (name) => h("span.icon", { "aria-hidden": "true", style: { "--icon": `url("/studio-static/icons/${name}.svg")` } });

/**
 * The look of a task by its name, the same on every page (studio/logic/colors.py): one of eight colours in one of three
 * shapes, so that the ninth task is told from the first, and colours that look alike to someone from each other.
 */
const COLORS = 8, SHAPES = ["square", "diamond", "triangle"];
const looks = () => (window.studioColors = window.studioColors || new Map());
/** What the server says of tasks that are newer than the page. */
const learnLooks = (tasks, said) => tasks.forEach((task, i) => looks().set(task, said[i]));
function lookOf(task) {
  const known = looks();
  if (!known.has(task)) known.set(task, known.size % (COLORS * SHAPES.length));
  return known.get(task);
}
const color = (task) => `var(--st-t${(typeof task === "string" ? lookOf(task) : task) % COLORS})`;
const shapeOf = (task) => SHAPES[Math.floor(lookOf(task) / COLORS) % SHAPES.length];
const swatch = (task) => h(`i.sw.${shapeOf(task)}`, { style: { background: color(task) } });

/** What fills the part of a bar that is a task's: stripes where the colour alone is another task's too. */
function filling(task) {
  const turned = { diamond: "45deg", triangle: "0deg" }[shapeOf(task)], own = color(task);
  return turned ? `repeating-linear-gradient(${turned}, ${own} 0 4px, color-mix(in srgb, ${own} 45%, var(--st-card)) 4px 7px)` : own;
}
const count = (number) => Number(number || 0).toLocaleString("en-US");
function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let value = Number(bytes || 0), unit = 0;
  while (value >= 1024 && unit < 3) { value /= 1024; unit += 1; }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}
