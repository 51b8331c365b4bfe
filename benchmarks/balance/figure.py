"""The study's figure as SVG: held-out loss of each task, relative to the base model, one bar per way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

COLOURS = {"alone": "#7a7f87", "token_mean": "#d98200", "task_mean": "#0072b2", "coba": "#009e73", "famo": "#cc79a7"}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, BAR = 860, 340, 56, 46, 56, 34


def draw(tasks: Sequence[str], ways: Mapping[str, Mapping[str, float]]) -> str:
    """Return the SVG text.

    Args:
        tasks: Names.
        ways: {way: {task: nats per token}}, among them `base`.
    """
    names = [way for way in COLOURS if way in ways]
    relative = {way: [ways[way][task] / ways["base"][task] for task in tasks] for way in names}
    top = 1.05 * max(1.0, *(value for values in relative.values() for value in values))
    height = HEIGHT - TOP - BOTTOM

    def y(value: float) -> float:
        return TOP + height * (1 - value / top)

    group = (WIDTH - LEFT - 20) / len(tasks)
    parts = [_text(LEFT, 20, "Held-out loss, of the base model's (lower is better)", "start", 14)]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#c9ccd1"/>')
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{100 * tick:.0f} %", "end"))
    for place, task in enumerate(tasks):
        start = LEFT + group * place + (group - BAR * len(names)) / 2
        for index, way in enumerate(names):
            value, x = relative[way][place], start + BAR * index
            told = escape(f"{task}, {way}: {ways[way][task]:.3f} nats per token")
            parts.append(
                f'<rect x="{x:.1f}" y="{y(value):.1f}" width="{BAR - 4}" height="{y(0) - y(value):.1f}" '
                f'fill="{COLOURS[way]}"><title>{told}</title></rect>'
            )
            parts.append(_text(x + BAR / 2 - 2, y(value) - 4, f"{100 * value:.0f}", "middle", 11))
        parts.append(_text(LEFT + group * (place + 0.5), HEIGHT - BOTTOM + 18, task, "middle", 13))
    for index, way in enumerate(names):
        x = LEFT + 120 * index
        parts.append(f'<rect x="{x}" y="{HEIGHT - 22}" width="12" height="12" fill="{COLOURS[way]}"/>')
        parts.append(_text(x + 18, HEIGHT - 12, way, "start"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, words: str, anchor: str, size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#1d2127">{escape(words)}</text>'
    )
