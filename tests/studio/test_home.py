"""Home and header: presets tell whether they can run here, the living run is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.contract.places import DataRoot
from engine.launch.devices import Machine
from studio.logic import home
from tests.fake_runs import fake_run

PROJECT = Path(__file__).resolve().parents[2]
LAPTOP = Machine(
    gpus=(), cpu_count=4, cpu_percent=3.0, ram_total=16 * 2**30, ram_used=2**30, cpu_bf16=True, gpu_note="No driver."
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> DataRoot:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(home, "inventory", lambda: LAPTOP)
    return DataRoot(tmp_path).make()


def test_the_starter_can_run_on_a_laptop_and_mixtral_cannot(root):
    cards = {card.preset: card for card in home.preset_cards(root, PROJECT)}
    assert list(cards)[0] == "starter" and len(cards) >= 5
    assert cards["starter"].fits
    for name in ("codellama-7b-qlora", "mixtral-8x7b-qlora"):
        assert not cards[name].fits and "GPU" in cards[name].need


def test_a_broken_preset_says_so(root, tmp_path):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "bad.yaml").write_text("tasks: 3")
    (card,) = home.preset_cards(root, tmp_path)
    assert not card.fits and "bad.yaml" in card.description


def test_the_page_is_json_and_the_header_names_the_living_run(root):
    fake_run(root.runs, "finished")
    assert home.header(root).live is None
    run = fake_run(root.runs, "running")
    view = home.look(root, PROJECT)
    json.dumps(view)
    assert view["starter"]["preset"] == "starter" and len(view["runs"]) == 2
    header = home.header(root)
    assert header.live == {"id": run.id, "name": "Fake", "percent": 0.5, "state": "running"}
    assert header.machine.startswith("CPU")
