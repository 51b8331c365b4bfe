// How to use a run from one's own code.  value: {} or {command, curl, python}
function snippet(label, text) {
  const button = h("button.ibtn", { type: "button", "aria-label": `Copy: ${label}`, onclick: async () => { try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch (error) { button.textContent = "Not allowed"; } } }, "Copy");
  return h("div.copy", {}, h("div.card-h", {}, h("h3", {}, label), h("div.grow"), button), h("pre", { tabindex: "0", translate: "no" }, text));
}

function draw(value) {
  if (!value.command) { root().replaceChildren(h("p.sub", {}, "Choose a run first.")); return; }
  const step = (text) => h("p.sub", {}, rich(text));
  root().replaceChildren(
    step("Start an endpoint that speaks the OpenAI API, on this machine only. It prints a token that every request needs; put it into `MFT_TOKEN`."),
    snippet("In a terminal", value.command), snippet("curl", value.curl), snippet("Python, with the openai package", value.python));
}
