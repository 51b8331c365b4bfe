// The Settings page.  value: see studio/logic/settings.py.  Choices of this browser stay in its local storage.
const act = (action, patch = {}) => tell("submit", { ...patch, action, nonce: Date.now() });
const card = (id, title, about, ...parts) => h("section.card", { id, "aria-labelledby": `${id}-title` }, h("div.card-h", {}, h("h2", { id: `${id}-title` }, title)), about ? h("p.sub", {}, about) : null, ...parts);
const command = (text) => h("div.command", {}, h("pre", { translate: "no", tabindex: "0" }, text), h("button.ibtn", { type: "button", onclick: (event) => copy(text, event.currentTarget) }, "Copy"));
const tick = (id, label, checked, onchange) => h("label.check-line", {}, h("input", { type: "checkbox", id, checked, onchange }), h("span", {}, label));

function confirmed({ title, body, go }) {
  return new Promise((resolve) => {
    const dialog = h("dialog.st-dlg", { "aria-labelledby": "dlg-title" }, h("h3", { id: "dlg-title" }, title), h("p", {}, body),
      h("div.row", {}, h("button", { type: "button", onclick: () => dialog.close("") }, "Keep it"), h("button.go", { type: "button", onclick: () => dialog.close("go") }, go)));
    dialog.addEventListener("close", () => { resolve(dialog.returnValue === "go"); dialog.remove(); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

function places(value) {
  const empty = { cache: { title: "Empty the cache?", body: "Encoded examples and tokenizers are deleted. They are made again when a run needs them, which takes a while.", go: "Empty the cache" },
    trash: { title: "Empty the trash?", body: "Deleted runs, tasks and presets are gone for good.", go: "Empty the trash" } };
  const rows = value.folders.map((folder) => h("tr", {}, h("th", { scope: "row" }, folder.name), h("td.path", { translate: "no" }, folder.path), h("td.n.num", {}, folder.whole ? size(folder.bytes) : `> ${size(folder.bytes)}`),
    h("td.n", {}, folder.clean ? h("button.ibtn", { type: "button", id: `settings-clean-${folder.clean}`, disabled: !folder.bytes, onclick: async () => { if (await confirmed(empty[folder.clean])) act("clean", { what: folder.clean }); } }, empty[folder.clean].go) : null)));
  return card("settings-places", "Where things are", null, h("table.places", {}, h("thead", {}, h("tr", {}, ["Folder", "Path", "Size", ""].map((title, i) => h(i > 1 ? "th.n" : "th", { scope: "col" }, title)))), h("tbody", {}, rows)),
    h("p.sub", {}, h("b.num", {}, size(value.free)), " ", h("span", {}, "free on this disk. Another place is chosen at the start:")), command("python app.py --data-root /a/larger/disk"));
}

function hub(value) {
  const known = value.hub.state === "token";
  return card("settings-hub", "Hugging Face", null,
    h("p", {}, h(`span.pill.${known ? "ok" : "warn"}`, {}, h("i"), known ? "A token is here" : "Not logged in")),
    known ? h("p.sub", {}, h("span", {}, "It comes from:"), " ", h("code", { translate: "no" }, value.hub.source)) : h("p.sub", {}, "Open models need no token. For gated ones such as Llama and Gemma accept their terms on the model's page, then log in on this machine:"),
    known ? h("p.sub", {}, "Ask the hub whose it is:") : null, command(known ? "hf auth whoami" : "hf auth login"));
}

function messages(value) {
  const field = h("input", { id: "settings-webhook", type: "password", autocomplete: "off", placeholder: value.webhook || "https://hooks.slack.com/services/…", "aria-label": "Address of the webhook" });
  const chosen = () => act("notify", { notify_finished: document.getElementById("settings-finished").checked, notify_failed: document.getElementById("settings-failed").checked });
  const form = h("form.line-form", { onsubmit: (event) => { event.preventDefault(); const url = field.value; field.value = ""; act("webhook", { url }); } }, field, h("button.button", { type: "submit" }, "Save"));
  return card("settings-messages", "Messages about runs", "When a run ends, its own process posts a message to a webhook, also while the studio is closed. Slack, Discord, Feishu, DingTalk and WeCom are known; any other address gets JSON.",
    form, value.webhook ? h("p.sub", {}, h("span", {}, "Messages go to:"), " ", h("code", { translate: "no" }, value.webhook), " ", h("button.ibtn", { type: "button", id: "settings-test", onclick: () => act("test_webhook") }, "Send a test"), " ", h("button.ibtn", { type: "button", id: "settings-forget", onclick: () => act("forget_webhook") }, "Remove")) : null,
    tick("settings-finished", "A run has finished", value.notify_finished, chosen), tick("settings-failed", "A run has failed, or its loss is not a number", value.notify_failed, chosen));
}

function devices(value) {
  if (!value.gpus.length) return null;
  const chosen = new Set(value.default_gpus.split(",").filter(Boolean).map(Number));
  return card("settings-gpus", "GPUs that a new recipe begins with", "None chosen means the first that are free.",
    value.gpus.map((gpu) => h("label.check-line", {}, h("input", { type: "checkbox", checked: chosen.has(gpu.index), onchange: (event) => { if (event.target.checked) chosen.add(gpu.index); else chosen.delete(gpu.index); act("gpus", { gpus: [...chosen] }); } }), h("span", { translate: "no" }, `GPU ${gpu.index}: ${gpu.name}`))));
}

function people(value) {
  return card("settings-people", "Who may open the studio", value.users.length ? "Everybody below may do everything. Accounts are changed on the machine itself." : "Nobody needs to log in: whoever has an account on this machine can open the studio. To ask for a password:",
    value.users.length ? h("ul.people", { translate: "no" }, value.users.map((name) => h("li", {}, name))) : null, command("python app.py --set-password NAME"), value.users.length ? command("python app.py --remove-user NAME") : null);
}

function machine(value) {
  const doctor = value.doctor, busy = doctor && doctor.state === "running";
  const list = doctor && doctor.findings.length ? h("ul.findings", {}, doctor.findings.map((one) => h(`li.${one.fine ? "ok" : "bad"}`, {}, h("span.mark", { "aria-hidden": "true" }, one.fine ? "✓" : "!"), h("span", {}, h("span", {}, String(one.fact)), one.fine || !one.advice ? null : h("span.sub", {}, String(one.advice)))))) : null;
  return card("settings-machine", "This machine", null, h("p.sub", { translate: "no" }, value.versions.map(([name, text]) => `${name} ${text}`).join(" · ")),
    h("p", {}, h("button.button", { type: "button", id: "settings-doctor", disabled: busy, onclick: () => act("doctor") }, busy ? "Looking …" : "Check this machine")), busy ? h("p.sub", { role: "status" }, "It tries torch, CUDA and bitsandbytes. That takes up to a minute.") : null, doctor && doctor.problem ? h("p.sub", { role: "alert" }, doctor.problem) : null, list);
}

function draw(value) {
  if (!value.folders) return;
  root().replaceChildren(...[messages(value), people(value), hub(value), devices(value), places(value), machine(value)].filter(Boolean));
}
