"""Imports point one way: pages -> logic -> contract, launch <- engine rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes"}
ENGINE_ROOMS = {f"engine.{p.name}" for p in (PROJECT / "engine").iterdir() if (p / "__init__.py").exists()}
PURE = {f"engine.data.{name}" for name in ("mixture", "pack", "preview", "scramble")}
"""Arithmetic without torch: the studio's preview is the same code as the training's plan."""
BANNED: dict[str, set[str]] = {
    "engine": {"gradio", "studio"},
    "engine/contract": HEAVY | {"gradio", "studio", "datasets"} | (ENGINE_ROOMS - {"engine.contract"}),
    "engine/launch": HEAVY | {"gradio", "studio"} | (ENGINE_ROOMS - {"engine.contract", "engine.launch"}),
    "studio": HEAVY | (ENGINE_ROOMS - {"engine.contract", "engine.launch"}) | {"engine.doctor"},
    "studio/logic": {"gradio", "studio.pages"},
}


def imports_of(file: Path) -> set[str]:
    """Return every module a file names in an import, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_room_imports_what_it_must_not():
    offences, seen = [], 0
    for folder, banned in BANNED.items():
        for file in (PROJECT / folder).rglob("*.py"):
            seen += 1
            for module in imports_of(file):
                if folder == "studio" and (module in PURE or module.rpartition(".")[0] in PURE):
                    continue
                if any(module == ban or module.startswith(ban + ".") for ban in banned):
                    offences.append(f"{file.relative_to(PROJECT)} imports {module}")
    assert seen > 30
    assert offences == []


def test_the_studio_runs_without_torch():
    code = "import sys, studio.shell; print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert result.stdout.strip().splitlines()[-1:] == ["[]"], result.stderr[-2000:]


def test_files_and_functions_stay_small():
    long = []
    files = [f for folder in ("engine", "studio", "scripts") for f in (PROJECT / folder).rglob("*.py")]
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        if len(lines) > 400:
            long.append(f"{file.relative_to(PROJECT)}: {len(lines)} lines")
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if (doc := ast.get_docstring(node, clean=False)) is not None:
                    length -= len(doc.splitlines())
                if length > 60:
                    long.append(f"{file.relative_to(PROJECT)}:{node.name}: {length} lines")
    assert len(files) > 30
    assert long == []


def test_no_value_reaches_a_shell_and_no_model_code_is_trusted():
    offences = []
    for file in [*(PROJECT / "engine").rglob("*.py"), *(PROJECT / "studio").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            boxed = file.name in ("trial.py", "on_trial.py") and name == "exec"  # the text that the sandbox runs
            if (
                keywords.get("shell") == "True"
                or not boxed
                and name in ("os.system", "os.popen", "eval", "exec", "pickle.loads")
            ):
                offences.append(f"{file.name}:{node.lineno} {name}")
            if keywords.get("trust_remote_code", "False") != "False":
                offences.append(f"{file.name}:{node.lineno} trust_remote_code")
            auto = name.startswith("Auto") and name.endswith(".from_pretrained")
            if auto and "trust_remote_code" not in keywords and "**" not in ast.unparse(node):
                offences.append(f"{file.name}:{node.lineno} {name} without trust_remote_code=False")
    assert offences == []
