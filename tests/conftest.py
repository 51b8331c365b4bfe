"""Fixtures of all tests."""

from __future__ import annotations

import gc

import pytest


def pytest_collection_finish() -> None:
    """Spare the garbage collections that end each training the millions of objects that the imports made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_data_root(tmp_path_factory: pytest.TempPathFactory):
    """Keep caches and runs of tests out of the user's data root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MFT_STUDIO_HOME", str(tmp_path_factory.mktemp("data-root")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_lower_priority():
    """A command that a test calls must not make all other tests wait for the processor."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NICE", "NICE_IN_TALK"):
            patch.setattr(f"engine.launch.beside.{name}", -20)
        yield


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory):
    """A LoRA recipe of six steps over two tasks on a tiny random model."""
    from tests.tiny_run import tiny_recipe  # imports torch, which most tests of the studio do without

    return tiny_recipe(tmp_path_factory.mktemp("tiny"))
