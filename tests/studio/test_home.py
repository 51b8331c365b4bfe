"""Home and header: presets tell whether they can run here, the living run is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.model_facts import known_config
from engine.contract.places import DataRoot
from engine.launch.devices import Gpu, Machine
from studio.logic import home, presets
from studio.logic.model_choice import ModelInfo
from tests.fake_runs import fake_run

PROJECT = Path(__file__).resolve().parents[2]
LAPTOP = Machine(
    gpus=(), cpu_count=4, cpu_percent=3.0, ram_total=16 * 2**30, ram_used=2**30, cpu_bf16=True, gpu_note="No driver."
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> DataRoot:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(home, "inventory", lambda: LAPTOP)
    monkeypatch.setattr(presets, "inventory", lambda: LAPTOP)
    return DataRoot(tmp_path).make()


def test_the_starter_can_run_on_a_laptop_and_mixtral_cannot(root):
    cards = {card.preset: card for card in presets.preset_cards(root, PROJECT)}
    assert list(cards)[0] == "starter" and len(cards) >= 19
    assert cards["starter"].fits
    for name in ("codellama-7b-qlora", "mixtral-8x7b-qlora"):
        assert not cards[name].fits and "GPU" in cards[name].need


def test_a_broken_preset_says_so(root, tmp_path):
    (tmp_path / "project" / "presets").mkdir(parents=True)
    (tmp_path / "project" / "presets" / "bad.yaml").write_text("tasks: 3")
    (card,) = presets.preset_cards(root, tmp_path / "project")
    assert not card.fits and "bad.yaml" in card.description


def test_presets_of_a_model_stand_together_small_before_large(root):
    cards = [card for card in presets.preset_cards(root, PROJECT) if card.preset != "starter"]
    found = {group["name"]: [card["variant"] for card in group["presets"]] for group in presets.groups(cards)}
    assert {"CodeLlama", "Qwen2.5-Coder", "Qwen3", "Mixtral", "DeepSeek-Coder", "StarCoder2", "GPT-NeoX"} <= set(found)
    assert found["CodeLlama"][0] == "7B, QLoRA" and "34B, as MFTCoder published" in found["CodeLlama"]
    assert found["Qwen2.5-Coder"][0] == "0.5B, LoRA" and found["Qwen2.5-Coder"][-1] == "32B, QLoRA"


def test_a_preset_of_ones_own_is_kept_loaded_and_deleted(root):
    recipe = presets.load_preset("starter", root, PROJECT).model_copy(update={"name": "My <b>mix</b>"})
    assert "on Home" in presets.save_preset(recipe, (), root)
    with pytest.raises(UserError, match="already"):
        presets.save_preset(recipe, (), root)
    own = [card for card in presets.preset_cards(root, PROJECT) if card.own]
    assert [card.preset for card in own] == ["mine:my-b-mix-b"]
    assert presets.groups(presets.preset_cards(root, PROJECT))[0]["name"] == "Yours"
    assert presets.load_preset(own[0].preset, root, PROJECT) == recipe
    assert "trash" in presets.delete_preset(own[0].preset, root)
    assert not [card for card in presets.preset_cards(root, PROJECT) if card.own]


@pytest.mark.parametrize("name", ["mine:../runs", "mine:", "starter", "mine:.hidden", "mine:absent"])
def test_only_a_preset_of_ones_own_can_be_deleted(root, name):
    with pytest.raises(UserError):
        presets.delete_preset(name, root)


def test_a_preset_needs_a_name_and_a_whole_form(root):
    recipe = presets.load_preset("starter", root, PROJECT)
    with pytest.raises(UserError, match="needs a name"):
        presets.save_preset(recipe.model_copy(update={"name": " "}), (), root)
    with pytest.raises(UserError, match="not complete"):
        presets.save_preset(None, (), root)


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


def test_what_holds_for_many_presets_is_said_once(root):
    view = home.look(root, PROJECT)
    told = json.dumps(view["groups"])
    assert len(view["notes"]) == 2 and "HF_HUB_OFFLINE" in view["notes"][1] and "hub" not in told.lower()
    cards = {card["preset"]: card for group in view["groups"] for card in group["presets"]}
    assert cards["codellama-7b-qlora"]["verdict"] == "needs a GPU" and "GiB" in cards["codellama-7b-qlora"]["memory"]
    assert view["starter"]["verdict"] == "fits on this machine" and view["starter"]["tone"] == "ok"


def test_a_preset_says_on_which_gpu_it_fits_or_why_it_does_not(root, monkeypatch):
    gpu = Gpu(
        index=0, uuid="u", name="RTX 4090", total_bytes=24 * 2**30, used_bytes=0, utilization=0, temperature_c=40,
        power_w=50, bf16=True,
    )  # fmt: skip
    monkeypatch.setattr(presets, "inventory", lambda: replace(LAPTOP, gpus=(gpu,), ram_total=256 * 2**30))
    monkeypatch.setattr(presets, "look_up", lambda name, *_: ModelInfo(config=known_config(name)))
    cards = {card.preset: card for card in presets.preset_cards(root, PROJECT)}
    small, large = cards["codellama-7b-qlora"], cards["mixtral-8x7b-qlora"]
    assert (small.verdict, small.tone, small.why_not) == ("fits on GPU 0", "ok", "")
    assert large.verdict == "does not fit" and "GPU 0 has 24 GiB" in large.why_not
