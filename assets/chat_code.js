// How to use a run from one's own code.  value: {} or {command, curl, python}

function draw(value) {
  if (!value.command) { root().replaceChildren(h("p.sub", {}, "Choose a run first.")); return; }
  const step = (text) => h("p.sub", {}, rich(text));
  root().replaceChildren(
    step("Start an endpoint that speaks the OpenAI API, on this machine only. It prints a token that every request needs; put it into `MFT_TOKEN`."),
    copyBlock("In a terminal", value.command), copyBlock("curl", value.curl), copyBlock("Python, with the openai package", value.python));
}
