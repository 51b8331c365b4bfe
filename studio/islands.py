"""Parts of a page that our own JavaScript draws from a JSON value.

    island(project, "task_editor", value) -> gr.HTML, constant template; the value goes to assets/task_editor.js

Text of strangers (file names, task names, log lines) reaches the page through `textContent` only: the template never
holds a value, so nothing in one can become markup.  A script defines `draw(value)`; `tell(event, patch)` merges a patch
into the value and fires an event of the component.  `assets/island.js` stands in front of every script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr


def island(
    project: Path, script: str | tuple[str, ...], value: dict[str, Any], *, elem_id: str, classes: str = ""
) -> gr.HTML:
    """Return a component that is drawn by `assets/<script>.js`.

    Args:
        project: The checkout, which holds `assets/`.
        script: Name of the script without `.js`, or several that belong together, in order.
        value: First value, JSON-ready; keep it small, it is compared as text on every change.
        elem_id: Id in the page.
        classes: Further CSS classes.
    """
    assets = project / "assets"
    names = (script,) if isinstance(script, str) else script
    code = "\n".join((assets / f"{name}.js").read_text(encoding="utf-8") for name in ("island", *names))
    return gr.HTML(
        value,
        html_template='<div class="island"></div>',
        js_on_load=f"{code}\nstart();",
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes=["st", *classes.split()],
    )
