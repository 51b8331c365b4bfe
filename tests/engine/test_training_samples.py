"""Samples during training: the same prompts at each evaluation, and a training that never notices."""

from __future__ import annotations

import json

import pytest
import torch

from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir, create_run_at, request
from engine.contract.samples import MAX_CHARS, PAGE_BYTES, Sample, clipped, read_samples, samples_file
from engine.evaluate.heldout import Prompt
from engine.model.tiny_tokenizer import character_tokenizer
from engine.train import samples
from engine.train.main import train
from engine.train.samples import Question, Sampler
from tests.tiny_model import tiny_llama
from tests.tiny_run import new_attempt, train_losses

WITH = ["record.sample_max_new_tokens=9", "model.gradient_checkpointing=true"]


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> RunDir:
    run = create_run_at(tmp_path_factory.mktemp("runs") / "with", override(recipe, WITH))
    train(run, new_attempt(run))
    return run


def by_place(run: RunDir) -> dict[tuple, Sample]:
    """Return the samples by step, task and prompt; the later line counts."""
    return {(one.step, one.task, one.prompt): one for one in read_samples(run)[0]}


def test_every_evaluation_answers_the_same_heldout_prompts(finished):
    found = by_place(finished)
    assert sorted(found) == [(step, task, n) for step in (0, 3, 6) for task in ("long", "short") for n in (0, 1)]
    for (_, task, number), one in found.items():
        first = found[0, task, number]
        assert (one.question, one.gold) == (first.question, first.gold)
        assert 1 <= one.num_tokens <= 9
    # the tasks' answers are their questions backwards, and seven times the number
    words, count = found[0, "short", 0].question.split()
    assert (words, found[0, "short", 0].gold) == ("abc", f"cba {int(count) * 7}")
    events = [event for event in finished.events()[0] if event["kind"] == "samples"]
    assert [event["step"] for event in events] == [0, 3, 6]
    assert all(event["data"]["seconds"] > 0 and event["text"].startswith("Samples: 4 answers") for event in events)


def test_a_run_with_samples_is_bit_by_bit_the_run_without(recipe, finished, tmp_path):
    """With dropout, so that one random number drawn, or one layer left in another mode, would show."""
    without = create_run_at(tmp_path / "without", override(recipe, [*WITH, "record.sample_prompts=0"]))
    train(without, new_attempt(without))
    assert not samples_file(without).exists()
    assert train_losses(without) == train_losses(finished)
    evaluations = [[row.get("eval/loss") for row in run.metrics()[0]] for run in (without, finished)]
    assert evaluations[0] == evaluations[1]
    for name in ("adapter_model.safetensors", "rng_state.pth", "optimizer.pt"):
        ours, theirs = (run.checkpoint_dirs()[-1] / name for run in (without, finished))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_a_resumed_run_has_the_samples_of_the_uninterrupted_one(recipe, finished, tmp_path):
    run = create_run_at(tmp_path / "cut", override(recipe, WITH))
    record = new_attempt(run)
    request(run, "stop")
    train(run, record)
    assert [event["step"] for event in run.events()[0] if event["kind"] == "samples"] == [0]
    with open(samples_file(run), "ab") as file:
        file.write(b'{"step": 3, "task": "sho')  # killed in mid-write
    train(run, new_attempt(run), resume_from="latest")
    assert train_losses(run) == train_losses(finished)
    assert by_place(run) == by_place(finished)
    assert all(json.loads(line) for line in samples_file(run).read_text().splitlines())


class Notes:
    """A record that keeps what it is told."""

    rank = 0

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.events: list[str] = []

    def sample(self, sample: Sample) -> None:
        self.samples.append(sample)

    def event(self, kind: str, text: str, **_: object) -> None:
        self.events.append(text)


def sampler(model: torch.nn.Module, **more: object) -> tuple[Sampler, Notes]:
    tokenizer, notes = character_tokenizer(), Notes()
    texts = ("seven plus two", "a", "what is it?")
    questions = [
        Question("t", n, Prompt(id=str(n), ids=tokenizer(text)["input_ids"], text=text, reference="9"))
        for n, text in enumerate(texts)
    ]
    return Sampler(notes, model, tokenizer, questions, max_new_tokens=7, **more), notes


def test_answers_are_those_of_transformers_one_by_one():
    model = tiny_llama().train()
    taker, notes = sampler(model)
    taker.take(3)
    assert [one.prompt for one in notes.samples] == [0, 1, 2] and model.training
    for one, question in zip(notes.samples, taker.questions, strict=True):
        ids = torch.tensor([question.prompt.ids])
        model.eval()
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=7, do_sample=False)
        wanted = taker.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert (one.output, one.step) == (wanted, 3)


def test_a_model_that_is_not_a_number_any_more_answers_something_and_ends_nothing():
    model = tiny_llama()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    taker, notes = sampler(model)
    taker.take(1)
    assert len(notes.samples) == 3


def test_a_model_that_cannot_answer_says_so_once():
    model = tiny_llama().train()
    taker, notes = sampler(model)

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: something\nwith details")

    model.register_forward_pre_hook(fail)
    taker.take(1)
    taker.take(2)
    assert len(notes.events) == 1 and "CUDA error: something)" in notes.events[0] and "\n" not in notes.events[0]
    assert notes.samples == [] and model.training


def test_answers_stop_where_they_are_when_the_run_is_to_end():
    asked = iter([False, False, *[True] * 9])
    taker, notes = sampler(tiny_llama(), is_urgent=lambda: next(asked))
    taker.take(1)
    assert {(one.num_tokens, one.end) for one in notes.samples} == {(3, "stopped")}
    assert notes.events[-1] == "3 samples are cut short or left out: the run is to end."


def test_answers_that_take_too_long_are_left_out(monkeypatch):
    monkeypatch.setattr(samples, "MAX_SECONDS", -1.0)
    monkeypatch.setattr(samples, "BATCH_TOKENS", 1)
    taker, notes = sampler(tiny_llama())
    taker.take(1)
    assert [(one.prompt, one.num_tokens) for one in notes.samples] == [(0, 1)]  # the longest question comes first
    assert notes.events[-1].startswith("3 samples are cut short or left out: they take longer than")


def test_a_layer_that_keeps_something_between_passes_can_still_be_trained():
    """Positions that grow with the text are kept by their layer; made in inference mode they end the next backward."""
    model = tiny_llama().train()
    embed = model.model.embed_tokens
    kept: list[torch.Tensor] = []

    def keep(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        if not kept:
            kept.append(torch.ones(1, 1, output.shape[-1]))
        return output * kept[0]

    embed.register_forward_hook(keep)
    sampler(model)[0].take(1)
    ids = torch.tensor([[3, 4, 5]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert embed.weight.grad is not None


def test_a_prompt_leaves_room_for_its_answer(recipe, tmp_path):
    """The tiny model looks back on 512 tokens; the shortest question of `long` has more than 30."""
    run = create_run_at(tmp_path / "room", override(recipe, ["record.sample_max_new_tokens=482", "optim.max_steps=1"]))
    train(run, new_attempt(run))
    assert {one.task for one in read_samples(run)[0]} == {"short"}
    told = [event["text"] for event in run.events()[0] if event["kind"] == "samples"]
    assert told[0] == "No samples of long: no held-out example asks something in 30 tokens or less."


def test_samples_are_read_in_pages_and_broken_lines_are_passed_over(tmp_path):
    run = RunDir(tmp_path)
    assert read_samples(run) == ([], 0, False)
    line = json.dumps({"step": 1, "task": "t", "prompt": 0, "question": "q" * 4000, "gold": "g", "output": "o"})
    lines = [line, "{broken", '{"step": "x"}', "y" * (2 * PAGE_BYTES), *[line] * 300]
    samples_file(run).write_text("\n".join(lines) + "\n" + line[:99])
    count, offset, more, pages = 0, 0, True, 0
    while more:
        found, offset, more = read_samples(run, offset)
        count, pages = count + len(found), pages + 1
    assert (count, pages > 3) == (301, True)
    assert read_samples(run, offset) == ([], offset, False)


def test_texts_are_cut_and_can_always_be_written():
    assert len(clipped("x" * 9999)) == MAX_CHARS and clipped("a\ud800b") == "a?b"
