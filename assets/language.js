// Chinese on the page.  Every sentence is written in English, in our code and on disk, and translated where it is shown:
//
//   text node, title, placeholder, aria-label -> the sentence | the sentence around its values | sentence by sentence
//
// so a run that was written last year, a toast of Gradio and an error of the engine all change with the switch, at once and
// without loading the page.  What strangers wrote stays: elements with translate="no" (names, data, logs, what a model says)
// and code.  The catalogue is studio/text/zh/*.json; what one entry looks like is told in studio/language.py.
window.studioLanguage = (() => {
  const NAMES = { en: "English", zh: "中文" };
  const ATTRIBUTES = ["title", "placeholder", "aria-label", "alt", "data-said"]; // the last one is shown by a style sheet
  const A_RUN = / · \d{8}-\S{6}/; // a run in a picker: its name is its owner's, whatever words it has
  const KEPT = '[translate="no"], code, pre, textarea, script, style, .cm-editor, [contenteditable="true"]';
  const ENDS = { ".": "。", ";": "；", ":": "：" };
  const MAX_REMEMBERED = 5000;
  const catalogue = { exact: null, starting: new Map(), others: [] };
  const remembered = new Map();
  const shownOf = new WeakMap(); // node or element -> what stood there in English, and what we put there

  let language = "en";
  try { language = localStorage.getItem("studio.language") || (navigator.language.startsWith("zh") ? "zh" : "en"); } catch (error) { /* no storage: English */ }
  if (!(language in NAMES)) language = "en";

  // ---- sentences
  function read(sentences) {
    catalogue.exact = new Map(Object.entries(sentences));
    const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const patterns = [...catalogue.exact].filter(([english]) => english.includes("{}"))
      .map(([english, chinese]) => ({ start: english.split("{}")[0].slice(0, 4), length: english.length, chinese, form: new RegExp(`^${english.split("{}").map(escape).join("(.+?)")}$`, "s") }))
      .sort((a, b) => b.length - a.length);
    for (const pattern of patterns) {
      if (pattern.start.length < 4) catalogue.others.push(pattern);
      else if (catalogue.starting.has(pattern.start)) catalogue.starting.get(pattern.start).push(pattern);
      else catalogue.starting.set(pattern.start, [pattern]);
    }
  }

  const LOOKS = [
    (text) => catalogue.exact.get(text) ?? null,
    (text) => filled(text, catalogue.starting.get(text.slice(0, 4)) || []),
    (text) => filled(text, catalogue.others),
  ];

  function filled(text, patterns) {
    for (const pattern of patterns) {
      const values = pattern.form.exec(text);
      if (values) return pattern.chinese.replace(/\{(\d)(t?)\}/g, (_, index, sentence) => (sentence ? translate(values[index]) : values[index]));
    }
    return null;
  }

  /** A sentence as it stands in the catalogue, or with a small first letter: what to do is written so behind a problem; or one that others go on from. */
  function whole(text) {
    const small = text[0].toLowerCase() + text.slice(1), end = ENDS[text.slice(-1)];
    const forms = [text, small, ...(end ? [text.slice(0, -1), small.slice(0, -1)] : [])];
    for (const look of LOOKS) for (const [index, form] of forms.entries()) {
      const found = look(form);
      if (found !== null) return index < 2 ? found : found.replace(/[。；：]$/, "") + end;
    }
    return null;
  }

  /** Several sentences of which each has its own entry; before patterns are tried, whose values would run over their ends. */
  function allSentences(text) {
    const parts = text.split(/(?<=[.!?]) (?=[A-Z])|(?<=^line \d.*;) (?=line \d)/);
    if (parts.length < 2) return null;
    const translated = parts.map(whole);
    return translated.includes(null) ? null : translated.join("");
  }

  function bySentence(text) {
    for (const [between, join] of [[/ · /, " · "], [/(?<=[.!?:;]) (?=\S)/, " "]]) {
      const parts = text.split(between);
      if (parts.length < 2) continue;
      const translated = parts.map((part) => whole(part) ?? part);
      if (translated.some((part, index) => part !== parts[index])) return translated.reduce((all, part) => all + (/[。！？：；]$/.test(all) ? "" : join) + part);
    }
    return null;
  }

  /** Return a sentence in the language of the page; one that nobody translated stays as it is. */
  function translate(text) {
    if (language === "en" || !catalogue.exact || !/[A-Za-z]{2}/.test(text) || A_RUN.test(text)) return text;
    if (/\S\s*\n/.test(text)) return text.split("\n").map(translate).join("\n");
    const [, before, sentence, after] = /^(\s*(?:-> )?)(.*?)(\s*)$/s.exec(text);
    const key = sentence.replace(/\s+/g, " ");
    if (!remembered.has(key)) {
      if (remembered.size > MAX_REMEMBERED) remembered.clear();
      remembered.set(key, catalogue.exact.get(key) ?? allSentences(key) ?? whole(key) ?? bySentence(key));
    }
    const found = remembered.get(key);
    return found === null ? text : before + found + after;
  }

  // ---- the page
  const inline = (element) => [...element.childNodes].some((node) => node.nodeName === "CODE") && [...element.childNodes].every((node) => node.nodeName === "CODE" || node.nodeType === Node.TEXT_NODE);
  const written = (element) => [...element.childNodes].map((node) => (node.nodeName === "CODE" ? `\`${node.textContent}\`` : node.data)).join("");

  function textNode(node) {
    const parent = node.parentElement;
    if (!parent || parent.closest(KEPT)) return;
    if (inline(parent)) { sentenceWithCode(parent); return; }
    const known = shownOf.get(node);
    if (known && node.data === known.shown) return;
    const shown = translate(node.data);
    if (shown === node.data) return;
    shownOf.set(node, { english: node.data, shown });
    node.data = shown;
  }

  function sentenceWithCode(element) {
    const english = written(element), known = shownOf.get(element);
    if (known && english === known.shown) return;
    const shown = translate(english);
    if (shown === english) return;
    const nodes = [...element.childNodes];
    element.replaceChildren(...shown.split("`").map((part, index) => (index % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : document.createTextNode(part))));
    shownOf.set(element, { nodes, shown: written(element) });
  }

  function attributes(element) {
    if (element.closest('[translate="no"]')) return;
    for (const name of ATTRIBUTES) {
      const text = element.getAttribute(name), known = (shownOf.get(element) || {})[name];
      if (!text || (known && text === known.shown)) continue;
      const shown = translate(text);
      if (shown === text) continue;
      shownOf.set(element, { ...shownOf.get(element), [name]: { english: text, shown } });
      element.setAttribute(name, shown);
    }
  }

  /** The choice that a closed list shows: the value of its field, which Gradio keeps to itself, so that only what is seen changes. */
  function choices() {
    for (const field of document.querySelectorAll("input[role=combobox]")) {
      const known = shownOf.get(field)?.choice;
      if (field === document.activeElement) { if (known && field.value === known.shown) field.value = known.english; continue; }
      if (field.closest('[translate="no"]') || (known && field.value === known.shown)) continue;
      const english = field.value, shown = translate(english);
      if (shown === english) continue;
      shownOf.set(field, { ...shownOf.get(field), choice: { english, shown } });
      field.value = shown;
    }
  }

  function visit(root) {
    if (root.nodeType === Node.TEXT_NODE) { textNode(root); return; }
    if (root.nodeType !== Node.ELEMENT_NODE) return;
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    const found = [root];
    while (walker.nextNode()) found.push(walker.currentNode);
    for (const node of found) (node.nodeType === Node.TEXT_NODE ? textNode : attributes)(node);
  }

  function restore() {
    const walker = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    const found = [];
    while (walker.nextNode()) if (shownOf.has(walker.currentNode)) found.push(walker.currentNode);
    for (const node of found) {
      const known = shownOf.get(node);
      shownOf.delete(node);
      if (node.nodeType === Node.TEXT_NODE) { if (node.data === known.shown) node.data = known.english; continue; }
      if (known.nodes && written(node) === known.shown) node.replaceChildren(...known.nodes);
      if (known.choice && node.value === known.choice.shown) node.value = known.choice.english;
      for (const name of ATTRIBUTES) if (known[name] && node.getAttribute(name) === known[name].shown) node.setAttribute(name, known[name].english);
    }
  }

  const observer = new MutationObserver((changes) => {
    for (const change of changes) {
      if (change.type === "childList") change.addedNodes.forEach((node) => node.isConnected && visit(node));
      else if (change.type === "characterData") textNode(change.target);
      else attributes(change.target);
    }
    if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; choices(); });
  });
  let waiting = 0;
  for (const event of ["focusin", "focusout"]) document.addEventListener(event, () => { if (language !== "en") choices(); });

  // ---- the switch
  async function use(chosen) {
    language = chosen;
    remembered.clear();
    document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
    observer.disconnect();
    restore();
    if (chosen !== "en") {
      if (!catalogue.exact) {
        try { read(await (await fetch(`/studio/text/${chosen}.json`)).json()); } catch (error) { language = "en"; }
      }
      visit(document.documentElement);
      choices();
      observer.observe(document.documentElement, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES });
    }
    document.documentElement.classList.remove("untranslated");
    for (const button of document.querySelectorAll(".language-switch")) label(button);
    document.dispatchEvent(new Event("studio-language")); // for what is drawn on a canvas
  }

  function label(button) {
    const other = language === "en" ? "zh" : "en";
    button.textContent = NAMES[other];
    button.lang = other === "zh" ? "zh-CN" : "en";
    button.onclick = () => { try { localStorage.setItem("studio.language", other); } catch (error) { /* only this page then */ } use(other); };
  }

  if (language !== "en") document.documentElement.classList.add("untranslated"); // hidden until it can be read
  document.addEventListener("DOMContentLoaded", () => use(language));
  return { translate, get current() { return language; } };
})();
