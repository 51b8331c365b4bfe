// The header: current page, theme switch, machine and the running run.  Text goes in through textContent only.
(() => {
  const header = document.getElementById("studio-header");
  if (!header) return;
  const here = location.pathname.replace(/\/+$/, "") || "/";
  const parent = here === "/run" ? "/runs" : here;
  for (const link of header.querySelectorAll("nav a")) {
    if (link.getAttribute("href") !== parent) continue;
    link.setAttribute("aria-current", "page");
    link.scrollIntoView({ block: "nearest", inline: "center" }); // on a phone the row of pages scrolls sideways
  }
  document.getElementById("studio-theme").addEventListener("click", () => {
    const dark = !document.documentElement.classList.contains("dark");
    localStorage.setItem("studio.theme", dark ? "dark" : "light");
    document.documentElement.classList.toggle("dark", dark);
    document.body.classList.toggle("dark", dark);
    const url = new URL(location.href);
    url.searchParams.set("__theme", dark ? "dark" : "light");
    history.replaceState(null, "", url);
  });

  const chip = document.getElementById("studio-live");
  const machine = document.getElementById("studio-machine");
  const logout = document.getElementById("studio-logout");
  function show(state) {
    machine.textContent = state.num_waiting ? `${state.machine} · ${state.num_waiting} waiting` : state.machine;
    machine.title = state.detail;
    logout.hidden = !state.user;
    logout.title = state.user;
    chip.hidden = !state.live;
    if (!state.live) return;
    chip.href = `/run?id=${encodeURIComponent(state.live.id)}`;
    const part = state.live.state === "preparing" ? "preparing" : `${Math.floor(state.live.percent * 100)} %`;
    const name = document.createElement("span");
    name.translate = false; // what people called their run
    name.textContent = state.live.name;
    chip.replaceChildren(name, " · ", part);
  }
  async function poll() {
    if (document.visibilityState === "visible") {
      try {
        const answer = await fetch("/studio/api/header.json", { cache: "no-store" });
        if (answer.status === 401) { location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`); return; }
        if (answer.ok) show(await answer.json());
      } catch (error) {
        machine.textContent = "The studio does not answer";
      }
    }
    setTimeout(poll, 4000);
  }
  poll();
})();
