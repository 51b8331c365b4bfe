// The Log tab of a run: what is new is fetched by byte offset while the tab is seen; search hides the other lines.
const KEPT_LINES = 5000;

class LogTail {
  constructor(runId, download) {
    Object.assign(this, { runId, offset: -1, lines: [], follow: true, wanted: "" });
    this.text = h("pre.st-log.tail", { tabindex: "0", role: "log", "aria-label": "Log", translate: "no" });
    this.found = h("span.sub.num", { role: "status" });
    const search = h("input.search", { type: "search", placeholder: "Search the log", "aria-label": "Search the log", oninput: () => { this.wanted = search.value.toLowerCase(); this.draw(); } });
    this.switch = h("input", { type: "checkbox", checked: true, onchange: () => { this.follow = this.switch.checked; if (this.follow) this.toEnd(); } });
    this.text.addEventListener("scroll", () => { // who scrolls up wants to read; who comes back down wants to follow
      const atEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 24;
      if (atEnd !== this.follow) { this.follow = atEnd; this.switch.checked = atEnd; }
    });
    this.node = h("section.card", {}, h("div.card-h", {}, h("h2", {}, "Log"), h("div.grow"), this.found, search, h("label.check", {}, this.switch, " Follow"), h("a.ibtn", { href: download, download: "train.log" }, "Download")), this.text);
  }

  toEnd() { this.text.scrollTop = this.text.scrollHeight; }

  async poll() {
    if (!this.node.offsetParent || this.busy) return; // another tab is open
    this.busy = true;
    try {
      const answer = await fetch(`/studio/api/log.json?${new URLSearchParams({ id: this.runId, offset: this.offset })}`, { cache: "no-store" });
      const found = await answer.json();
      if (found.missing) return;
      const fresh = found.lines;
      this.offset = found.offset;
      if (found.reset) this.lines = fresh; else this.lines.push(...fresh);
      const cut = this.lines.length > KEPT_LINES;
      if (cut) this.lines = this.lines.slice(-KEPT_LINES);
      if (found.reset || cut || this.wanted || !this.text.dataset.filled) this.draw();
      else if (fresh.length) { this.text.append(`\n${fresh.join("\n")}`); if (this.follow) this.toEnd(); }
    } finally { this.busy = false; }
  }

  draw() {
    const shown = this.wanted ? this.lines.filter((line) => line.toLowerCase().includes(this.wanted)) : this.lines;
    this.text.dataset.filled = this.lines.length ? "yes" : "";
    this.text.textContent = shown.join("\n") || (this.wanted ? "No line holds that." : "No log yet.");
    this.found.textContent = this.wanted ? `${count(shown.length)} of ${count(this.lines.length)} lines` : "";
    if (this.follow) this.toEnd();
  }
}
