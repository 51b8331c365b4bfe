// Title of a page.  value: {title, text}
function draw(value) {
  root().replaceChildren(h("header.page-head", {}, h("h1", {}, value.title || ""), h("p.sub", {}, value.text || "")));
}
