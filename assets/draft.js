// The draft of the New run page in this browser: window.studioDraft {read, write, clear}.  A tab has a copy of its own, so
// that two tabs do not fight; the last one that was written is what a new tab begins with.
(() => {
  const KEY = "studio.new.draft", TAB = "studio.new.tab", NONE = "none";
  const safely = (f) => { try { return f() || ""; } catch (error) { return ""; } }; // storage may be forbidden: then there is no draft
  const tab = () => { const id = sessionStorage.getItem(TAB) || crypto.getRandomValues(new Uint32Array(2)).join("-"); sessionStorage.setItem(TAB, id); return id; };
  const isOurs = (text) => text === sessionStorage.getItem(KEY) || JSON.parse(text).tab === tab();
  window.studioDraft = {
    /** The draft as text, empty if there is none or the address says what to show. */
    read: (links) => safely(() => {
      const query = new URL(location.href).searchParams;
      if (links.some((name) => query.get(name))) return "";
      const own = sessionStorage.getItem(KEY) || localStorage.getItem(KEY) || NONE;
      if (own === NONE) return "";
      sessionStorage.setItem(KEY, own);
      return own;
    }),
    /** Keep a draft, null for none; from then on the address does not ask for something else. */
    write: (draft, links) => safely(() => {
      if (!draft) window.studioDraft.clear();
      else for (const storage of [sessionStorage, localStorage]) storage.setItem(KEY, JSON.stringify({ ...draft, tab: tab() }));
      const url = new URL(location.href);
      links.forEach((name) => url.searchParams.delete(name));
      if (url.href !== location.href) history.replaceState(history.state, "", url);
    }),
    /** Forget this tab's draft; that of another tab stays, and does not come up here. */
    clear: () => safely(() => {
      const last = localStorage.getItem(KEY);
      if (last && isOurs(last)) localStorage.removeItem(KEY);
      sessionStorage.setItem(KEY, NONE);
    }),
  };
})();
