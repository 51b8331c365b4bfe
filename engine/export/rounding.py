"""GPTQ, AWQ and GGUF q4_K_M through auto-round, by rounding to the nearest: no calibration data, no network.

    python -m engine.export.rounding MODEL OUT SCHEME FORMAT GROUP_SIZE     in a process of its own, offline

auto-round writes into a sub-folder of OUT that it names itself; `round_weights` finds it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

from engine.contract.errors import UserError
from engine.contract.export_formats import pick_group_size
from engine.export.shards import shards_of
from engine.export.tools import plain_view, run_tool

SCHEMES = {"gptq": ("W4A16", "auto_gptq"), "awq": ("W4A16", "auto_awq"), "gguf-q4_k_m": ("gguf:q4_k_m", "gguf:q4_k_m")}
"""Our format -> auto-round's scheme and format."""


def require_auto_round() -> None:
    """Refuse when the optional package is not there.

    Raises:
        UserError: Saying how to install it.
    """
    if importlib.util.find_spec("auto_round") is None:
        raise UserError(
            "This format needs auto-round, which is not installed.",
            fix=f"{sys.executable} -m pip install -r requirements-export.txt",
        )


def layer_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    """Return (outputs, inputs) of the layers of a model folder that are quantized: matrices that are no embedding."""
    found, places = {}, shards_of(model)
    for file in sorted(set(places.values())):
        with safe_open(model / file, framework="pt") as shard:
            for name in shard.keys():
                shape = tuple(shard.get_slice(name).get_shape())
                if len(shape) == 2 and ".layers." in f".{name}":
                    found[name] = shape
    return found


def round_weights(model: Path, form: str, target: Path) -> dict[str, Any]:
    """Quantize a model folder into `target`.

    Args:
        model: Folder with safetensors.
        form: Key of `SCHEMES`.
        target: Folder that gets the files.

    Returns:
        What was chosen, for the report.

    Raises:
        UserError: If the shapes do not allow it, or auto-round fails.
    """
    require_auto_round()
    scheme, written_as = SCHEMES[form]
    group = 0 if form.startswith("gguf") else pick_group_size(layer_shapes(model))
    with plain_view(model, target.parent) as view, TemporaryDirectory(prefix=".round-", dir=target.parent) as out:
        argv = [sys.executable, "-m", "engine.export.rounding", str(view), out, scheme, written_as, str(group)]
        run_tool(argv, what="auto-round")
        made = sorted(Path(out).rglob("*.gguf" if form.startswith("gguf") else "config.json"))
        if len(made) != 1:
            raise UserError(f"auto-round wrote {len(made)} models instead of one.", fix="report this with the log.")
        if form.startswith("gguf"):
            made[0].rename(target / "model.gguf")
            return {}
        for path in made[0].parent.iterdir():
            path.rename(target / path.name)
    return {"group_size": group}


def main(argv: list[str]) -> int:
    """Run auto-round; the process that `round_weights` starts."""
    from auto_round import AutoRound

    model, out, scheme, written_as, group = argv
    more = {"group_size": int(group)} if int(group) else {}
    # iters=0 with disable_opt_rtn: plain rounding; anything else asks for a calibration set of the hub
    rounder: Any = AutoRound(model, scheme=scheme, iters=0, disable_opt_rtn=True, device_map="cpu", **more)
    rounder.quantize_and_save(output_dir=out, format=written_as)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
