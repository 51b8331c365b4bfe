"""The recipe of a run that goes on learning where another one ended: "+N epochs".

It is a run of its own, because a recipe never changes: the weights begin as those of the checkpoint, the optimizer and
the schedule are fresh, the examples come in a new order, and the same ones stay held out.
"""

from __future__ import annotations

from engine.contract.errors import UserError
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir


def continuation(run: RunDir, *, epochs: float = 1.0, checkpoint: str = "") -> Recipe:
    """Return the recipe that continues a run.

    Args:
        run: The run to continue.
        epochs: Passes over the data to add.
        checkpoint: Name of one of its checkpoints; empty = the newest.

    Raises:
        UserError: If there is no such checkpoint.
    """
    folders = {path.name: path for path in run.checkpoint_dirs()}
    if not folders or (checkpoint and checkpoint not in folders):
        problem = f"Run {run.id} has no checkpoint {checkpoint}".strip() + "."
        raise UserError(problem, fix=f"choose from: {', '.join(folders) or 'none'}.", field="continue_from")
    recipe = run.recipe()
    folder = folders[checkpoint] if checkpoint else list(folders.values())[-1]
    data = recipe.data.model_copy(update={"data_seed": (recipe.order_seed + 1) % 2**32})
    optim = recipe.optim.model_copy(update={"max_steps": None, "num_train_epochs": epochs})
    name = f"{recipe.display_name} +{epochs:g}"[:80]
    changes = {"data": data, "optim": optim, "name": name, "continue_from": str(folder.resolve())}
    return Recipe.model_validate(recipe.model_copy(update=changes).model_dump())
