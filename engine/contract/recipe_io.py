"""Read, write and override recipes, with a human sentence for every mistake.

text -> yaml (no aliases, 1 MB at most) -> Recipe | UserError with *all* problems, each with its dotted field
Recipe -> text: load_recipe(dump_recipe(recipe)) == recipe
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from engine.contract.errors import Problem, UserError
from engine.contract.hub_path import is_hub_path
from engine.contract.recipe import Recipe
from engine.contract.recipe_base import MisplacedValue

MAX_RECIPE_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases (an alias bomb is 400 bytes) and without duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node.value, str):
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key_node.value}` stands here twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def parse_recipe(text: str, *, source: str = "the recipe") -> Recipe:
    """Build a recipe from YAML text.

    Args:
        text: YAML, at most `MAX_RECIPE_BYTES`.
        source: What to call the text in messages.

    Raises:
        UserError: With every problem found.
    """
    return recipe_from_values(parse_values(text, source=source), source=source)


def parse_values(text: str, *, source: str = "the recipe") -> dict[str, Any]:
    """Turn YAML text into plain values, not yet validated.

    Raises:
        UserError: If the text is too large, is no YAML, or is no mapping.
    """
    if len(text.encode("utf-8", "replace")) > MAX_RECIPE_BYTES:
        raise UserError(f"{source} is larger than 1 MB.", fix="keep data in task files, not in the recipe.")
    try:
        values = yaml.load(text, Loader=_Loader)  # a SafeLoader, stricter
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it is nested too deeply or holds characters YAML refuses"
        raise UserError(f"{source} is not valid YAML{where}: {what}.", fix="correct that line.") from None
    except ValueError as error:  # yaml builds dates and huge integers eagerly
        raise UserError(f"{source} holds a value YAML cannot read: {error}.", fix="put the value in quotes.") from None
    if not isinstance(values, dict):
        raise UserError(f"{source} must be a mapping: lines of `key: value`.", fix="start from a file in presets/.")
    return values


def recipe_from_values(values: dict[str, Any], *, source: str = "the recipe") -> Recipe:
    """Validate plain values.

    Raises:
        UserError: With every problem found, each with the dotted path of its field.
    """
    version = values.get("schema_version", 1)
    if version != 1:
        raise UserError(
            f"{source} has schema_version {version!r}; this studio reads version 1.",
            fix="update the studio, or set schema_version: 1 if the file is older than that.",
            field="schema_version",
        )
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        inner = [p for p in problems if len(p["loc"]) > 1]
        # pydantic drops invalid items and then reports a list as too short: say only the true cause
        told = [
            p for p in problems if not (p["type"] == "too_short" and any(i["loc"][0] == p["loc"][0] for i in inner))
        ]
        raise UserError.of([_humane(problem, source) for problem in told]) from None


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file; relative task and model paths become absolute, from the file's folder.

    Raises:
        UserError: If the file cannot be read or holds problems.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"There is no recipe at {path}.", fix="check the path; presets lie in presets/.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text (byte {error.start}).", fix="save it as UTF-8.") from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}.", fix="check the path and its permissions."
        ) from None
    return absolute_paths(parse_recipe(text, source=path.name), path.resolve().parent)


def absolute_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with its relative file paths resolved against `folder`; hub ids stay as they are."""

    def resolve(path: str) -> str:
        if is_hub_path(path):
            return path
        return str((folder / Path(path).expanduser()).resolve())

    tasks = tuple(
        task.model_copy(update={"path": resolve(task.path), "eval_path": task.eval_path and resolve(task.eval_path)})
        for task in recipe.tasks
    )
    model = recipe.model_name_or_path
    if model.startswith((".", "~", "/")):
        model = resolve(model)
    data = recipe.data
    if data.chat_template not in ("auto", "model", "mftcoder"):
        data = data.model_copy(update={"chat_template": resolve(data.chat_template)})
    start = recipe.continue_from and resolve(recipe.continue_from)
    evaluate = recipe.evaluate
    evaluate = evaluate.model_copy(update={"retention": evaluate.retention and resolve(evaluate.retention)})
    changed = {"tasks": tasks, "model_name_or_path": model, "data": data, "continue_from": start, "evaluate": evaluate}
    return recipe.model_copy(update=changed)


def dump_recipe(recipe: Recipe, *, all_fields: bool = True) -> str:
    """Write a recipe as YAML, in the order of the schema.

    Args:
        recipe: The recipe.
        all_fields: False leaves out what equals the default, for people to read.
    """
    values = recipe.model_dump(mode="json", exclude_defaults=not all_fields)
    return yaml.safe_dump({"schema_version": 1, **values}, sort_keys=False, allow_unicode=True, width=120)


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Apply `section.field=value` strings (`--set` of the command line), values read as YAML.

    Raises:
        UserError: For a malformed assignment or a value that the schema refuses; all problems at once.
    """
    values = recipe.model_dump(mode="json")
    problems = []
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            problems.append(Problem(problem=f"`{assignment}` is no assignment.", fix="write --set section.field=value"))
            continue
        try:
            _assign(values, path.strip(), yaml.load(text, Loader=_Loader))
        except (KeyError, IndexError, ValueError, TypeError, yaml.YAMLError):
            problems.append(
                Problem(problem=f"The recipe has no place `{path}`.", fix=_near(path, field_paths()), field=path)
            )
    if problems:
        raise UserError.of(problems)
    return recipe_from_values(values, source="the recipe with --set")


def field_paths() -> tuple[str, ...]:
    """Return every dotted field path of the schema, task fields as `tasks.0.name`."""

    def walk(model: type[BaseModel], prefix: str) -> list[str]:
        paths = []
        for name, info in model.model_fields.items():
            inner = info.annotation
            item = next((a for a in get_args(inner) if isinstance(a, type) and issubclass(a, BaseModel)), None)
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                paths += walk(inner, f"{prefix}{name}.")
            elif item is not None:
                listed = get_origin(inner) is tuple  # else a section that may be empty
                paths += walk(item, f"{prefix}{name}.0." if listed else f"{prefix}{name}.")
            else:
                paths.append(prefix + name)
        return paths

    return tuple(walk(Recipe, ""))


def _assign(values: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    known = re.sub(r"\.\d+\.", ".0.", path) in field_paths()
    for key in parents:
        if known and isinstance(values, dict) and values.get(key, 0) is None:
            values[key] = {}  # an empty section is there as soon as a value of it is set
        values = values[int(key)] if isinstance(values, list) else values[key]
    if isinstance(values, list):
        values[int(last)] = value
    else:
        if last not in values and not known:
            raise KeyError(last)
        values[last] = value


def _near(key: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean `{match[0]}`?" if match else f"known: {', '.join(known[:12])} ..."


def _fix_for_unknown(key: str, beside: Sequence[str]) -> str:
    """Return what to do about an unknown key: a near name beside it, the same name elsewhere, or why there is none."""
    if "token" in key.lower() or "api_key" in key.lower():
        return "keep secrets out of recipes; log in with `hf auth login` or set HF_TOKEN."
    if key == "trust_remote_code":
        return "remove it: a model's own code is never run."
    if difflib.get_close_matches(key, beside, n=1, cutoff=0.7):
        return _near(key, beside)
    leaves = {path.rsplit(".", 1)[-1]: path for path in field_paths()}
    match = difflib.get_close_matches(key, leaves, n=1, cutoff=0.7)
    return f"did you mean `{leaves[match[0]]}`?" if match else _near(key, beside)


def _section_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that may stand beside the last part of an error location."""
    model: Any = Recipe
    for key in location[:-1]:
        if isinstance(key, int):
            continue
        annotation = model.model_fields[key].annotation
        nested = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)


def _humane(error: Any, source: str) -> Problem:
    """Turn one pydantic error into a sentence with a way out."""
    location: tuple[int | str, ...] = error["loc"]
    path = ".".join(str(part) for part in location)
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        problem = f"{source}: there is no setting `{path}`."
        return Problem(problem=problem, fix=_fix_for_unknown(str(location[-1]), _section_keys(location)), field=path)
    if kind == "missing":
        return Problem(problem=f"{source}: `{path}` is missing.", fix="add it.", field=path)
    if kind == "value_error":
        cause = error["ctx"]["error"]
        if isinstance(cause, MisplacedValue):
            path = f"{path}.{cause.field}" if path else cause.field
        return Problem(problem=f"{source}: {cause}.", fix="", field=path)
    if kind == "string_pattern_mismatch" and path.endswith("name"):
        fix = "use lower-case letters of any script, digits, `.`, `_` and `-`, starting with a letter or digit."
        return Problem(problem=f"{source}: `{path}` is {given!r}, which is no task name.", fix=fix, field=path)
    shown = repr(given)
    return Problem(
        problem=f"{source}: `{path}` is {shown if len(shown) < 80 else shown[:77] + '...'}.",
        fix=error["msg"][0].lower() + error["msg"][1:] + ".",
        field=path,
    )
