"""Recipe path <-> component: one widget per schema field, made from the schema.  No default, limit or help of its own.

    widgets = Widgets();  widgets.add("optim.learning_rate")      -> gr.Number with the schema's docstring below it
    widgets.read({component: value}) -> {path: value}             for handlers that take a set of components
    widgets.updates({path: value})   -> {component: update}       to fill the form

Limits are not set on the widgets: gradio would refuse a number with a toast of its own, the schema refuses it with a
sentence that names the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr

from studio.logic.form_fields import FIELDS, FormField

NOT_SET = "not set"
"""What stands in an empty number."""


class Widgets:
    """The table `recipe path -> component` of one page."""

    def __init__(self) -> None:
        self.by_path: dict[str, Any] = {}

    def add(self, path: str, **changes: Any) -> Any:
        """Make the component of a schema field inside the open layout and return it.

        Args:
            path: Dotted recipe path.
            changes: Arguments that replace those made from the schema: a shorter label, `info=None`, `visible`.

        Raises:
            KeyError: If the schema has no such field.
        """
        component = make_component(FIELDS[path], **changes)
        self.by_path[path] = component
        return component

    def put(self, path: str, component: Any) -> Any:
        """Take a component that the page made itself; its path must be in the schema."""
        if path not in FIELDS:
            raise KeyError(path)
        self.by_path[path] = component
        return component

    @property
    def components(self) -> set[Any]:
        """All components, to pass as a set of inputs."""
        return set(self.by_path.values())

    def read(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """Return {path: widget value} from what a handler with a set of inputs received."""
        return {path: values[component] for path, component in self.by_path.items() if component in values}

    def updates(self, values: Mapping[str, Any]) -> dict[Any, Any]:
        """Return what a handler returns to show `values`."""
        return {self.by_path[path]: value for path, value in values.items() if path in self.by_path}

    def inputs_of(self, paths: Iterable[str]) -> list[Any]:
        """Return the `input` listeners of some fields, for `gr.on`."""
        return [self.by_path[path].input for path in paths]


def make_component(field: FormField, **changes: Any) -> Any:
    """Return the component that edits one field: number, switch, choice or text."""
    common: dict[str, Any] = {
        "label": field.label,
        "info": field.help or None,
        "value": field.default,
        "interactive": True,
        "elem_id": element_id(field.path),
    }
    if field.kind in ("number", "integer"):
        return gr.Number(**{**common, "placeholder": NOT_SET, **changes})
    if field.kind == "flag":
        return gr.Checkbox(**{**common, **changes})
    if field.kind == "choice":
        return gr.Dropdown(list(field.choices), **{**common, **changes})
    lines = 3 if field.path == "description" else 1
    return gr.Textbox(**{**common, "lines": lines, "max_lines": lines, **changes})


def element_id(path: str) -> str:
    """Return the id of a field in the page: `optim.learning_rate` is `field-optim-learning_rate`."""
    return "field-" + path.replace(".", "-")
