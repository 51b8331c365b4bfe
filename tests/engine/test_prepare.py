"""From task files to rows: the cache, the split, the length policies, the report; every record accounted for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.contract.errors import UserError
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import override
from engine.contract.records import Example, Message
from engine.data import encode
from engine.data.codec import Codec
from engine.data.keys import content_key
from engine.data.prepare import prepare, report_json
from engine.data.rows import split_heldout
from engine.data.tokenize import IGNORE, encode_example
from engine.model.tiny_tokenizer import character_tokenizer
from tests.tiny_run import write_task


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.of(character_tokenizer())


def write_rows(path, *answers: str):
    rows = [{"prompt": f"q{index}", "completion": answer} for index, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one_task(path, *settings: str) -> Recipe:
    values = {"model_name_or_path": "m", "tasks": [{"name": "t", "path": str(path)}]}
    return override(Recipe.model_validate(values), ["data.eval_split=0", *settings])


def words(task, codec) -> list[str]:
    return sorted(codec.decode([int(i) for i in row.input_ids]) for unit in task.train for row in unit)


def test_the_store_gives_back_what_encoding_one_example_gives(tmp_path, codec):
    path = write_rows(tmp_path / "t.jsonl", "one", "two <|im_end|> three", "x" * 40)
    (task,) = prepare(one_task(path), codec, tmp_path / "cache").tasks
    for index, answer in enumerate(("one", "two <|im_end|> three", "x" * 40)):
        example = Example((Message("user", f"q{index}"), Message("assistant", answer)), 1)
        (row,) = task.train[index]
        expected = encode_example(codec, example)
        assert row.input_ids.tolist() == expected.input_ids and row.labels.tolist() == expected.labels
        assert codec.decode([i for i in row.labels.tolist() if i != IGNORE]) == answer + "<|im_end|>"


def test_a_second_start_is_served_from_the_cache_and_other_settings_are_not(tmp_path, codec, monkeypatch):
    path, cache = write_task(tmp_path / "t.jsonl", 12, "abc"), tmp_path / "cache"
    first = prepare(one_task(path), codec, cache)
    assert not first.sources[0]["from_cache"]
    monkeypatch.setattr(encode, "encode_chunk", None)  # encoding again would fail
    again = prepare(one_task(path, "data.max_length=64", "data.truncation=split", "seed=7"), codec, cache)
    assert again.sources[0]["from_cache"] and again.facts[0].num_tokens == first.facts[0].num_tokens
    for changed in (one_task(path, "data.assistant_turns=last"), one_task(write_task(path, 13, "abc"))):
        with pytest.raises(TypeError):
            prepare(changed, codec, cache)


def test_a_damaged_cache_is_made_anew(tmp_path, codec):
    path, cache = write_task(tmp_path / "t.jsonl", 12, "abc"), tmp_path / "cache"
    before = prepare(one_task(path), codec, cache)
    (tokens,) = cache.glob("*/tokens.arrow")
    tokens.write_bytes(tokens.read_bytes()[:300])
    after = prepare(one_task(path), codec, cache)
    assert not after.sources[0]["from_cache"] and after.facts == before.facts


def test_many_workers_make_the_same_store_as_one(tmp_path, codec, monkeypatch):
    path = write_task(tmp_path / "t.jsonl", 5000, "a line of words")
    alone = prepare(one_task(path), codec, tmp_path / "alone")
    monkeypatch.setattr(encode, "BYTES_PER_WORKER", {True: 1000, False: 1000})
    monkeypatch.setattr(encode.os, "cpu_count", lambda: 3)
    together = prepare(one_task(path), codec, tmp_path / "together")
    assert together.facts == alone.facts and together.facts[0].num_rows == 5000
    for index in (0, 2047, 2048, 4999):
        assert together.tasks[0].train[index][0].input_ids.tolist() == alone.tasks[0].train[index][0].input_ids.tolist()


def test_too_long_examples_are_dropped_truncated_or_split_and_counted(tmp_path, codec):
    answer = "".join(chr(97 + i % 26) for i in range(100))
    path = write_rows(tmp_path / "t.jsonl", "short", answer)
    whole = encode_example(codec, Example((Message("user", "q1"), Message("assistant", answer)), 1))
    cut = prepare(one_task(path, "data.max_length=60", "data.truncation=truncate"), codec, tmp_path / "c")
    dropped = prepare(one_task(path, "data.max_length=60"), codec, tmp_path / "c")
    split = prepare(one_task(path, "data.max_length=60", "data.truncation=split"), codec, tmp_path / "c")
    assert [p.facts[0].num_too_long for p in (cut, dropped, split)] == [1, 1, 1]
    assert [p.facts[0].num_rows for p in (cut, dropped, split)] == [2, 1, 4]
    assert "1 examples above 60 tokens: split" in split.notes[0]
    parts = [row for unit in split.tasks[0].train for row in unit][1:]
    assert [i for row in parts for i in row.input_ids.tolist()] == whole.input_ids  # no token lost or doubled
    assert all(len(row.input_ids) <= 60 for row in parts)
    expected = sum(row.num_supervised for unit in split.tasks[0].train for row in unit)
    assert split.facts[0].num_supervised_tokens == expected


def test_rows_without_loss_are_dropped_and_counted(tmp_path, codec):
    rows = [{"prompt": "p" * 100, "completion": "a"}, {"prompt": "q", "completion": "b"}]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = prepare(one_task(path, "data.max_length=64", "data.truncation=truncate"), codec, tmp_path / "c")
    assert (done.facts[0].num_rows, done.facts[0].num_unsupervised) == (1, 1)
    with pytest.raises(UserError, match=r"all 2 examples are longer than 16 tokens \(the shortest: "):
        prepare(one_task(path, "data.max_length=16"), codec, tmp_path / "c")


def test_packs_hold_every_row_of_their_task_once(tmp_path, codec):
    path = write_task(tmp_path / "t.jsonl", 57, "abc def")
    plain = prepare(one_task(path, "data.max_length=256"), codec, tmp_path / "c")
    packed = prepare(one_task(path, "data.max_length=256", "data.packing=bfd"), codec, tmp_path / "c")
    assert words(packed.tasks[0], codec) == words(plain.tasks[0], codec)
    assert len(packed.tasks[0].train) == packed.facts[0].num_packs < 57
    assert all(sum(len(row.input_ids) for row in unit) <= 256 for unit in packed.tasks[0].train)
    assert 0.8 < packed.preview.pack_fill <= 1


def test_held_out_examples_depend_on_content_only_and_copies_stay_together():
    examples = [Example((Message("user", f"q{i % 17}"), Message("assistant", "a")), i) for i in range(40)]
    keys = np.array([content_key(example) for example in examples], dtype=np.uint64)
    held = split_heldout(keys, share=0.2, seed=1)
    assert held.sum() >= 8 and not set(keys[held]) & set(keys[~held])
    assert split_heldout(keys[::-1], share=0.2, seed=1).tolist() == held[::-1].tolist()
    assert split_heldout(keys, share=0.2, seed=2).tolist() != held.tolist()
    assert not split_heldout(keys[:1], share=0.5, seed=1).any()  # nothing would be left to train


def test_max_samples_takes_the_same_examples_whatever_the_order(tmp_path, codec):
    path = write_task(tmp_path / "a.jsonl", 30, "abc")
    lines = path.read_text().splitlines(keepends=True)
    back = tmp_path / "b.jsonl"
    back.write_text("".join(lines[::-1]))
    chosen = []
    for file in (path, back):
        recipe = one_task(file).model_copy(
            update={"tasks": (one_task(file).tasks[0].model_copy(update={"max_samples": 9}),)}
        )
        chosen.append(words(prepare(recipe, codec, tmp_path / "c").tasks[0], codec))
    assert chosen[0] == chosen[1] and len(chosen[0]) == 9


def test_all_problems_of_all_tasks_are_told_at_once(tmp_path, codec):
    write_rows(tmp_path / "long.jsonl", "x" * 200)
    tasks = [
        {"name": "long", "path": str(tmp_path / "long.jsonl")},
        {"name": "gone", "path": str(tmp_path / "no.jsonl")},
    ]
    values = {"model_name_or_path": "m", "tasks": tasks, "data": {"max_length": 32, "eval_split": 0}}
    with pytest.raises(UserError) as caught:
        prepare(Recipe.model_validate(values), codec, tmp_path / "c")
    assert [p.field for p in caught.value.problems] == ["data.max_length", "tasks.1.path"]


def test_the_report_accounts_for_every_record(tmp_path, codec):
    path = write_rows(tmp_path / "t.jsonl", "a", "b", "b" * 200, "c", "d", "e")
    path.write_text(path.read_text() + '{"prompt": 3}\n')
    recipe = one_task(path, "data.eval_split=0.3", "data.max_length=64")
    report = report_json(recipe, prepare(recipe, codec, tmp_path / "c"))
    (task,) = report["tasks"]
    assert (task["num_records"], task["num_skipped"]) == (7, 1)
    assert task["num_rows"] + task["num_heldout"] + task["num_too_long"] <= 6
    assert sum(count for _, count in task["all_lengths"]) == 6
    assert report["mixture"]["steps"] == 1 and report["split"]["seed"] == 42
    json.dumps(report, allow_nan=False)


def test_the_command_prepares_and_the_second_time_reads_the_cache(recipe, tmp_path, capsys, monkeypatch):
    from engine.__main__ import main
    from engine.contract.recipe_io import dump_recipe

    monkeypatch.setenv("MFT_STUDIO_HOME", str(tmp_path / "root"))  # other tests may have encoded the same file
    path, report = tmp_path / "recipe.yaml", tmp_path / "report.json"
    path.write_text(dump_recipe(recipe).replace("seed: 42", "seed: 43"))
    assert main(["prepare", str(path), "--set", "data.chat_template=mftcoder"]) == 0
    assert "encoded now" in capsys.readouterr().out
    assert main(["prepare", str(path), "--set", "data.chat_template=mftcoder", "--report", str(report)]) == 0
    out = capsys.readouterr().out
    assert "from the cache" in out and "encoded now" not in out
    tasks = json.loads(report.read_text())["mixture"]["tasks"]
    assert sum(task["rows"] for task in tasks) == 48 and sum(task["loss_share"] for task in tasks) == pytest.approx(1)
    assert main(["prepare", str(path), "--set", "data.chat_template=/no/such.jinja"]) == 2
    assert "no/such.jinja" in capsys.readouterr().err
