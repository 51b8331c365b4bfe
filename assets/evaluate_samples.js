// Answers side by side.  samplesCard(value) -> node; fetches /studio/api/samples.json; see studio/logic/evaluate.py
const sampleState = { key: "", at: 0, found: null };

async function loadSamples(value, [dataset, kind], stamp) {
  const query = new URLSearchParams({ id: value.run, against: value.against, dataset, kind });
  try {
    const answer = await fetch(`/studio/api/samples.json?${query}`, { cache: "no-store" });
    sampleState.found = await answer.json();
  } catch (error) {
    sampleState.found = { examples: [], failed: true };
  }
  sampleState.key = stamp;
  drawSamples(value);
}

const sampleText = (title, text, extra) => h("div.turn-box", {}, h("div.who", {}, title), h("div.text", { tabindex: "0" }, h("div.say", { translate: "no" }, text || "–")), extra || null);

function sampleAnswer(label, answer) {
  if (!answer) return sampleText(h("span", { translate: "no" }, label), "", h("p.state-line.sub", {}, "Not measured yet."));
  const scores = answer.scores.map(([name, text]) => h("span", {}, `${name} `, h("b.num", {}, text)));
  return sampleText(h("span", { translate: "no" }, label), answer.text, h("p.state-line.sub", {}, h("span", {}, answer.end), ...scores, ...answer.notes.map((text) => h("span", { translate: "no" }, text))));
}

function drawSamples(value) {
  const place = root().querySelector(".samples");
  if (!place) return;
  const found = sampleState.found;
  if (!found) { place.replaceChildren(h("p.sub", {}, "Reading the answers …")); return; }
  if (found.failed) { place.replaceChildren(h("p.sub", { role: "alert" }, "The answers cannot be read now.")); return; }
  if (!found.examples.length) { place.replaceChildren(h("p.sub", {}, "No answers yet.")); return; }
  sampleState.at = Math.min(sampleState.at, found.examples.length - 1);
  const example = found.examples[sampleState.at];
  const move = (by, id) => () => { sampleState.at += by; drawSamples(value); const button = document.getElementById(id); if (button && !button.disabled) button.focus(); };
  const step = h("div.card-h", {}, h("button.ibtn", { type: "button", id: "sample-back", disabled: sampleState.at === 0, onclick: move(-1, "sample-back") }, "Back"),
    h("span.num", { role: "status" }, `Sample ${sampleState.at + 1} of ${found.examples.length}`), h("button.ibtn", { type: "button", id: "sample-next", disabled: sampleState.at + 1 === found.examples.length, onclick: move(1, "sample-next") }, "Next"));
  place.replaceChildren(step, h("div.columns", {}, sampleText("Prompt", example.prompt), sampleText("The answer in the data", example.reference), ...found.columns.map((label, i) => sampleAnswer(label, example.answers[i]))));
}

function samplesCard(value, stamp) {
  if (!value.samples.length) return null;
  const options = value.samples.map(([dataset, kind]) => h("option", { value: JSON.stringify([dataset, kind]), translate: "no" }, dataset));
  const picker = h("select.samples-of", { "aria-label": "Data", onchange: () => { sampleState.at = 0; sampleState.found = null; drawSamples(value); loadSamples(value, JSON.parse(picker.value), stamp); } }, options);
  const before = root().querySelector(".samples-of");
  if (before && value.samples.some((place) => JSON.stringify(place) === before.value)) picker.value = before.value;
  const card = h("section.card", {}, h("div.card-h", {}, h("h2", {}, "Answers side by side"), h("div.grow"), picker), h("div.samples"));
  if (sampleState.key !== stamp) loadSamples(value, JSON.parse(picker.value), stamp);
  return card;
}
