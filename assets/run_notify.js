// Browser notifications about the run that is open: asked for by a button, kept per browser, also while the tab is hidden.
const NOTIFY = "studio.notify";
const canNotify = () => "Notification" in window && window.isSecureContext;
const notifies = () => canNotify() && Notification.permission === "granted" && localStorage.getItem(NOTIFY) === "on";
const said = (text) => (window.studioLanguage ? window.studioLanguage.translate(text) : text);
const aliveStates = ["queued", "preparing", "running", "stopping"];

async function toggleNotify() {
  if (notifies()) localStorage.removeItem(NOTIFY);
  else if ((await Notification.requestPermission()) === "granted") localStorage.setItem(NOTIFY, "on");
}

function notifyButton(redrawn) {
  if (!canNotify()) return null;
  const blocked = Notification.permission === "denied", on = notifies();
  return h("button.button", { type: "button", id: "run-notify", "aria-pressed": String(on), disabled: blocked, title: blocked ? "This browser does not allow notifications of the studio." : null, onclick: async () => { await toggleNotify(); redrawn(); } }, on ? "Notifications on" : "Notify me");
}

/** Tell what changed between two looks at a run. */
function notifyOf(before, run) {
  if (!before || !notifies()) return;
  const words = { finished: "The run has finished.", failed: "The run has failed.", lost: "The run was lost." };
  const nan = (one) => one.events.filter((event) => event.text.startsWith("Not a number")).length;
  const ended = aliveStates.includes(before.state) && words[run.state];
  const text = ended ? `${said(words[run.state])} ${said(run.failure?.problem || "")}`.trim() : nan(run) > nan(before) ? said(run.events.findLast((event) => event.text.startsWith("Not a number")).text) : "";
  if (!text) return;
  const notice = new Notification(run.name, { body: text, tag: run.id });
  notice.onclick = () => { window.focus(); notice.close(); };
}
