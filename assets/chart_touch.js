// A uPlot under fingers: one reads, two zoom and move, a double tap shows everything again (that one is a double click to
// the browser, too).  Up and down goes on scrolling the page.

/** part(min, max) shows a part of the x axis, at once; settled() follows when the last finger is lifted. */
function touchable(u, part, settled) {
  const over = u.over, fingers = new Map();
  let held = null; // while two fingers are down: the x under each
  const place = (event) => { const box = over.getBoundingClientRect(); return { left: event.clientX - box.left, top: event.clientY - box.top }; };
  over.style.touchAction = "pan-y";
  const down = (event) => {
    if (event.pointerType !== "touch" || fingers.size > 1) return;
    fingers.set(event.pointerId, place(event));
    if (fingers.size === 1) u.setCursor(place(event));
    else if (part) held = [...fingers.values()].map(({ left }) => u.posToVal(left, "x"));
  };
  const move = (event) => {
    if (!fingers.has(event.pointerId)) return;
    fingers.set(event.pointerId, place(event));
    if (!held) { u.setCursor(place(event)); return; }
    const [a, b] = [...fingers.values()].map(({ left }) => left), width = over.clientWidth;
    if (Math.abs(a - b) < 8) return;
    const perPx = (held[1] - held[0]) / (b - a), min = held[0] - a * perPx;
    if (perPx > 0) part(min, min + width * perPx);
  };
  const up = (event) => {
    if (!fingers.delete(event.pointerId) || fingers.size || !held) return;
    held = null;
    settled();
  };
  over.addEventListener("pointerdown", down);
  over.addEventListener("pointermove", move);
  for (const end of ["pointerup", "pointercancel"]) over.addEventListener(end, up);
}
