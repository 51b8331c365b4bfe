// Title of a page.  value: {title, text, marked: [ids of fields to mark as changed]}
let marks = null;

function draw(value) {
  root().replaceChildren(h("header.page-head", {}, h("h1", {}, value.title || ""), h("p.sub", {}, value.text || "")));
  const marked = value.marked || [];
  if (!marks && !marked.length) return;
  if (!marks) document.adoptedStyleSheets = [...document.adoptedStyleSheets, (marks = new CSSStyleSheet())]; // fields may come into the page later
  marks.replaceSync(marked.map((id) => `#${CSS.escape(id)} { outline: 2px solid var(--st-accent); outline-offset: 6px; border-radius: 6px; }`).join("\n"));
  if (marked.length) setTimeout(() => document.getElementById(marked[0])?.scrollIntoView({ block: "center" }), 600);
}
