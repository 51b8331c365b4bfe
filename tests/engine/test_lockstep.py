"""Two ranks that answer together: whatever one of them sees, both make the same forward passes, those of rank 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.test_training_samples import sampler
from tests.tiny_model import tiny_llama

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each rank saw."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [[sys.executable, "-m", "tests.engine.lockstep_ranks", str(rank), str(folder)] for rank in (0, 1)]
    with open(folder / "log", "wb") as log:
        both = [subprocess.Popen(w, cwd=PROJECT, env=environment, stdout=log, stderr=log) for w in words]
        try:
            ends = [process.wait(timeout=200) for process in both]
        finally:
            for process in both:
                process.kill()
    assert ends == [0, 0], (folder / "log").read_text()[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["alike", "other weights", "rank 1 is in a hurry", "rank 0 is in a hurry"])
def test_both_ranks_do_what_rank_0_decides(ranks, name):
    taker, notes = sampler(tiny_llama())
    taker.take(1)
    alone = [[one.output, one.num_tokens, one.end] for one in notes.samples]
    first, second = (rank[name] for rank in ranks)
    assert first["forwards"] == second["forwards"] and first["answers"] == second["answers"]
    if name == "rank 0 is in a hurry":
        assert [(tokens, end) for _, tokens, end in first["answers"]] == [(4, "stopped")] * 3
        assert first["events"][-1] == "3 samples are cut short or left out: the run is to end."
    else:
        assert first["answers"] == alone


def test_a_value_is_that_of_rank_0(ranks):
    assert [rank["first"] for rank in ranks] == ["of rank 0"] * 2


def test_a_rank_that_fails_alone_ends_the_run_with_a_way_out(ranks):
    first, second = (rank["rank 1 fails"] for rank in ranks)  # neither waits for the other for ever
    assert "One of the processes could not answer the held-out prompts (out of memory, let us say)." in second
    assert "One of the processes could not answer" in first and "record.sample_prompts" in first
