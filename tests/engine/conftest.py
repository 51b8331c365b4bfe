"""Fixtures of the engine's tests."""

from __future__ import annotations

import pytest

from engine.contract.recipe import Recipe
from tests.tiny_run import tiny_recipe


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A LoRA recipe of six steps over two tasks on a tiny random model."""
    return tiny_recipe(tmp_path_factory.mktemp("tiny"))
