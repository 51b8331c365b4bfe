"""The recipe schema as a flat list of form fields, and values to and from it.

    Recipe schema -> FIELDS (path, label, help, kind, choices, default)
    flat {path: widget value} -> nested recipe values        to_values
    Recipe                    -> flat {path: widget value}   from_recipe

No default, limit or help text of its own.  Tasks are not fields: they are edited as rows.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.contract.recipe import Recipe

Kind = Literal["number", "integer", "flag", "choice", "text", "names"]
YAML_ONLY = frozenset({"schema_version"})
"""What a recipe's YAML says and no form does: the format's own version."""
NOT_FIELDS = YAML_ONLY | {"tasks"}
LABELS = {
    "model_name_or_path": "Model",
    "num_train_epochs": "Epochs",
    "per_device_train_batch_size": "Batch size",
    "gradient_accumulation_steps": "Accumulation",
    "r": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "lora_dropout": "LoRA dropout",
    "min_lr": "Final learning rate",
    "dtype": "Number format",
    "attn_implementation": "Attention",
    "num_processes": "Processes",
    "cpu_offload": "CPU offload",
    "gpus": "GPUs",
    "num_machines": "Slurm nodes",
    "machines": "Machines",
    "stop_on_nan": "Stop on NaN",
    "use_rslora": "rsLoRA",
    "target_experts": "Adapt the experts",
    "use_dora": "DoRA",
    "per_device_eval_batch_size": "Evaluation batch size",
}
"""Where the field's name is not what people say; every other label is the name itself in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """One value of the recipe as a form shows it."""

    path: str
    """Dotted recipe path: `optim.learning_rate`."""
    section: str
    """First part of the path, or empty for fields of the recipe itself."""
    label: str
    help: str
    """The field's docstring, one paragraph."""
    kind: Kind
    default: Any
    """As the widget shows it; None for a required field or an empty number."""
    choices: tuple[str, ...] = ()
    """Of a choice all values; of names the words that may stand for a list."""
    optional: bool = False
    """True if an empty widget means None."""


def fields() -> tuple[FormField, ...]:
    """Return every editable field of the schema, in its order."""
    return tuple(_walk(Recipe, ""))


FIELDS: dict[str, FormField] = {}


def field_of(path: str) -> FormField:
    """Return the field at a dotted path.

    Raises:
        KeyError: If the schema has none there.
    """
    return FIELDS[path]


def defaults() -> dict[str, Any]:
    """Return the widget value of every field of a recipe that says nothing."""
    return {path: field.default for path, field in FIELDS.items()}


def from_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the widget values of a recipe."""
    values = recipe.model_dump(mode="json")
    return {path: _to_widget(field, _dig(values, path)) for path, field in FIELDS.items()}


def to_values(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested recipe values of a form; defaults are left out, wrong values kept to be refused."""
    nested: dict[str, Any] = {}
    for path, field in FIELDS.items():
        if path not in flat:
            continue
        value = flat[path]
        if value == field.default and type(value) is type(field.default):
            continue
        if value in (None, "") and field.optional:
            value = None
        elif field.kind == "integer" and isinstance(value, float) and value.is_integer():
            value = int(value)
        elif field.kind == "names":
            value = _names(field, value)
        if value == field.default:
            continue
        *parents, last = path.split(".")
        place = nested
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def changed(flat: Mapping[str, Any], paths: tuple[str, ...]) -> int:
    """Return how many of `paths` differ from the schema's default."""
    nested = to_values({path: flat[path] for path in paths if path in flat})
    return sum(_has(nested, path) for path in paths)


def suits(field: FormField, value: Any) -> bool:
    """Whether a value is one that the field's widget can show; whether it is allowed is the schema's to say."""
    match field.kind:
        case "number" | "integer":
            return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        case "flag":
            return isinstance(value, bool)
        case "choice":
            return value in field.choices
        case _:
            return isinstance(value, str)


def _walk(model: type[BaseModel], prefix: str) -> list[FormField]:
    found = []
    for name, info in model.model_fields.items():
        inner = info.annotation
        if name in NOT_FIELDS and not prefix:
            continue
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += _walk(inner, f"{prefix}{name}.")
        else:
            found.append(_field(f"{prefix}{name}", name, info))
    return found


def _field(path: str, name: str, info: FieldInfo) -> FormField:
    kind, choices, optional = _kind(info.annotation)
    field = FormField(
        path=path,
        section=path.split(".")[0] if "." in path else "",
        label=LABELS.get(name, name.replace("_", " ").capitalize()),
        help=" ".join((info.description or "").split()),
        kind=kind,
        default=None,
        choices=choices,
        optional=optional,
    )
    return replace(field, default=_to_widget(field, None if info.is_required() else info.default))


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """Return kind, choices and whether None is allowed."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (Union, types.UnionType):
        rest = [a for a in arguments if a is not type(None)]
        if any(get_origin(a) is tuple for a in rest):
            words = (word for a in rest if get_origin(a) is Literal for word in get_args(a))
            return "names", tuple(map(str, words)), False
        kind, choices, _ = _kind(rest[0])
        return kind, choices, len(rest) < len(arguments)
    if origin is tuple:
        return "names", (), False
    if origin is Literal:
        return "choice", tuple(str(a) for a in arguments), False
    simple: dict[Any, Kind] = {bool: "flag", int: "integer", float: "number", str: "text"}
    return simple[annotation], (), False


def _to_widget(field: FormField, value: Any) -> Any:
    if field.kind == "names" and isinstance(value, (list, tuple)):
        return ", ".join(value)
    if field.kind == "text" and value is None:
        return ""
    return value


def _names(field: FormField, value: Any) -> Any:
    """`q_proj, v_proj` becomes a list, nothing an empty one; a word that stands for a list, `all-linear`, stays."""
    text = str(value or "").strip()
    if field.choices and text in ("", *field.choices):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _dig(values: Mapping[str, Any], path: str) -> Any:
    value: Any = values
    for part in path.split("."):
        value = value[part]
    return value


def _has(values: Mapping[str, Any], path: str) -> bool:
    value: Any = values
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


FIELDS.update({field.path: field for field in fields()})
