// The Samples tab of a run: what the model answers to the same held-out prompts at each evaluation.  New lines are fetched
// by byte offset while the tab is seen (studio/logic/run_samples.py); the newest step is shown until another is chosen.
const MAX_CHIPS = 9, MAX_SHOWN = 24, MAX_HISTORY = 60;
const MIN_MARKED = 0.4; // an answer that shares less with the wanted one is easier to read without marks
const stepName = (step) => (step ? `Step ${count(step)}` : "Step 0, before training");

class SamplesTab {
  constructor(runId) {
    Object.assign(this, { runId, offset: 0, prompts: new Map(), steps: [], task: "", step: null, marks: true, wanted: null, failed: false, open: new Set() });
    this.bar = h("div.samples-bar");
    this.list = h("div.samples-list");
    this.legend = h("p.sub.samples-key", {}, h("span", {}, h("ins", {}, "underlined"), " only in the answer"), h("span", {}, h("del", {}, "struck through"), " only in the wanted answer"));
    this.node = h("section.card.run-samples", { "aria-label": "Samples" }, this.bar, this.list);
    this.draw();
    new IntersectionObserver(() => this.poll()).observe(this.node); // at once when the tab is opened
  }

  async poll(run) {
    if (run) this.run = run;
    if (!this.runId || !this.node.offsetParent || this.busy) return; // another tab is open
    this.busy = true;
    try {
      let fresh = this.wanted === null || this.failed, more = true;
      while (more) {
        const answer = await fetch(`/studio/api/run_samples.json?${new URLSearchParams({ id: this.runId, offset: this.offset })}`, { cache: "no-store" });
        const page = await answer.json();
        if (page.missing) return;
        fresh = this.take(page) || fresh;
        more = page.more;
      }
      this.failed = false;
      if (fresh || !this.prompts.size) this.draw();
    } catch (error) {
      this.failed = true;
      if (!this.prompts.size) this.draw();
    } finally { this.busy = false; }
  }

  /** Keep a page; return whether it holds something new. */
  take(page) {
    if (page.reset) this.prompts.clear();
    for (const [task, number, question, gold] of page.prompts) {
      const key = JSON.stringify([task, number]), known = this.prompts.get(key);
      if (!known || known.question !== question || known.gold !== gold) this.prompts.set(key, { key, task, number, question, gold, answers: new Map() });
    }
    for (const [step, task, number, text, tokens, end] of page.answers) this.prompts.get(JSON.stringify([task, number])).answers.set(step, { text, tokens, end });
    Object.assign(this, { offset: page.offset, wanted: page.wanted });
    this.steps = [...new Set([...this.prompts.values()].flatMap((prompt) => [...prompt.answers.keys()]))].sort((a, b) => a - b);
    return page.answers.length > 0 || page.reset;
  }

  get at() { return this.steps.includes(this.step) ? this.step : this.steps[this.steps.length - 1]; }

  choose(patch) { Object.assign(this, patch); this.draw(); }

  draw() {
    const focus = document.activeElement && this.node.contains(document.activeElement) ? document.activeElement.id : "";
    const title = h("div.card-h", {}, h("h2", {}, "Samples"), h("span.sub", {}, "the same held-out prompts at each evaluation"), h("div.grow"));
    if (!this.prompts.size) {
      this.bar.replaceChildren(title);
      this.list.replaceChildren(this.nothing());
      return;
    }
    const tasks = [...new Set([...this.prompts.values()].map((prompt) => prompt.task))];
    const picker = h("select.samples-of", { id: "samples-task", "aria-label": "Task", onchange: () => this.choose({ task: picker.value }) }, h("option", { value: "" }, "All tasks"), tasks.map((task) => h("option", { value: task, translate: "no", selected: task === this.task }, task)));
    const marks = h("input", { type: "checkbox", id: "samples-marks", checked: this.marks, onchange: () => this.choose({ marks: marks.checked }) });
    title.append(h("label.check", {}, marks, " Mark differences"), picker);
    const all = [...this.prompts.values()].filter((prompt) => !this.task || prompt.task === this.task);
    const shown = all.slice(0, MAX_SHOWN);
    this.shown = shown;
    this.bar.replaceChildren(...[title, this.stepChoice(), this.legend, this.told()].filter(Boolean));
    this.list.replaceChildren(...shown.map((prompt) => this.card(prompt)), ...(all.length > shown.length ? [h("p.sub", {}, `${shown.length} of ${all.length} prompts are shown: choose a task.`)] : []));
    this.tellMarks();
    if (focus) document.getElementById(focus)?.focus();
  }

  /** Explain the marks where some are seen. */
  tellMarks() {
    const differs = (prompt) => [...prompt.answers].some(([step, answer]) => (step === this.at || this.open.has(prompt.key)) && this.marked(prompt, answer)?.common < 1);
    this.legend.hidden = !this.shown.some(differs);
  }

  stepChoice() {
    const steps = this.steps, at = steps.indexOf(this.at), to = (i) => this.choose({ step: i === steps.length - 1 ? null : steps[i] });
    if (steps.length <= MAX_CHIPS) return h("div.seg.samples-steps", { role: "group", "aria-label": "Step" }, steps.map((step, i) => h("button", { type: "button", id: `samples-step-${step}`, "aria-pressed": String(i === at), onclick: () => to(i) }, step ? count(step) : "Base")));
    const slider = h("input", { type: "range", id: "samples-step", min: "0", max: String(steps.length - 1), step: "1", "aria-label": "Step", "aria-valuetext": stepName(this.at), oninput: () => to(Number(slider.value)) });
    slider.value = String(at);
    return h("div.samples-slide", {}, slider, h("b.num", { role: "status" }, stepName(this.at)));
  }

  /** Why there are fewer samples than people expect, from the newest such event. */
  told() {
    const said = this.run ? this.run.events.filter((event) => event.kind === "samples" && !event.text.startsWith("Samples:")) : [];
    return said.length ? h("p.sub.samples-told", {}, said[said.length - 1].text) : null;
  }

  nothing() {
    const over = this.run && ["finished", "stopped", "failed", "lost"].includes(this.run.state);
    if (this.failed) return h("p.empty", { role: "alert" }, "The samples cannot be read now. The page tries again.");
    if (this.wanted === null) return h("p.empty", { role: "status" }, "Reading the samples …");
    if (!this.wanted) return h("p.empty", {}, "The recipe asks for no samples: ", h("code", {}, "record.sample_prompts"), " is 0.");
    return this.told() || h("p.empty", {}, over ? "This run has no samples." : "No samples yet. The first ones come before the first step.");
  }

  card(prompt) {
    const answer = prompt.answers.get(this.at), button = h("button.ibtn", { type: "button", id: `samples-copy-${prompt.key}`, onclick: () => copy(answer.text, button) }, "Copy");
    const history = h("details", { open: this.open.has(prompt.key), ontoggle: () => {
      if (history.open) this.open.add(prompt.key); else this.open.delete(prompt.key);
      if (history.open && history.childElementCount === 1) history.append(this.history(prompt));
      this.tellMarks();
    } }, h("summary", { id: `samples-all-${prompt.key}` }, `All ${prompt.answers.size} answers`));
    if (history.open) history.append(this.history(prompt));
    const head = h("div.samples-h", {}, swatch(prompt.task), h("h3", {}, h("span", { translate: "no" }, prompt.task), " · ", h("span", {}, `prompt ${prompt.number + 1}`)));
    const box = (title, ...content) => h("div.turn-box", {}, h("div.who", {}, ...[title].flat()), h("div.text", { tabindex: "0", role: "group", "aria-label": [title].flat()[0].textContent || [title].flat()[0] }, ...content));
    const ours = box([h("span", {}, stepName(this.at)), h("div.grow"), answer ? button : null].filter(Boolean), answer ? this.answer(prompt, answer) : h("p.sub", {}, "No answer at this step."));
    if (answer) ours.append(this.facts(prompt, answer));
    return h("article.samples-card", {}, head, h("div.samples-three", {}, box("Prompt", h("div.say", { translate: "no" }, prompt.question || "–")), box("Wanted answer", h("div.say", { translate: "no" }, prompt.gold || "–")), ours), prompt.answers.size > 1 ? history : null);
  }

  history(prompt) {
    const steps = [...prompt.answers.keys()].sort((a, b) => a - b), shown = steps.slice(-MAX_HISTORY);
    return h("ol.samples-history", {}, shown.map((step) => h("li", {}, h("b.num", {}, stepName(step)), this.answer(prompt, prompt.answers.get(step)), this.facts(prompt, prompt.answers.get(step)))));
  }

  compared(prompt, answer) {
    if (answer.diff === undefined) {
      const diff = answer.diff = difference(prompt.gold, answer.text), parts = diff ? diff.parts : [];
      // it was cut: what would have come is not known
      if (answer.end !== "end of turn" && parts.length && parts[parts.length - 1][0] === "missing") answer.diff = { parts: parts.slice(0, -1), common: share(parts.slice(0, -1)) };
    }
    return answer.diff;
  }

  /** The difference, if it is to be marked. */
  marked(prompt, answer) {
    const diff = this.marks && answer ? this.compared(prompt, answer) : null;
    return diff && diff.common >= MIN_MARKED ? diff : null;
  }

  answer(prompt, answer) {
    const diff = this.marked(prompt, answer), parts = diff ? diff.parts : [];
    if (!diff) return h("div.say", { translate: "no" }, answer.text || "–");
    const tags = { same: "span", extra: "ins", missing: "del" };
    return h("div.say", { translate: "no" }, parts.map(([kind, text]) => h(tags[kind], {}, text)), parts.length ? null : "–");
  }

  facts(prompt, answer) {
    const diff = this.compared(prompt, answer), ends = { "end of turn": `${answer.tokens} tokens`, "length limit": `cut at ${answer.tokens} tokens` };
    return h("p.state-line.sub", {}, h("span.num", {}, ends[answer.end] || `stopped after ${answer.tokens} tokens`), h("span", {}, diff ? (diff.common === 1 ? (answer.end === "end of turn" || answer.text === prompt.gold ? "as wanted" : "as wanted so far") : `${percent(diff.common)} as wanted`) : "too long to be compared"), this.marks && diff && diff.common < MIN_MARKED ? h("span", {}, "too different to be marked") : null);
  }
}
