"""What the Samples tab reads."""

from __future__ import annotations

from engine.contract.files import append_json
from engine.contract.samples import samples_file
from studio.logic.run_samples import look
from tests.fake_runs import fake_run, sample_row


def test_only_what_is_new_is_read_and_a_question_is_told_once(tmp_path):
    run = fake_run(tmp_path, "running", steps=40)
    page = look(run, 0)
    assert [prompt[:2] for prompt in page["prompts"]] == [["sql", 0], ["bug-fix", 0]]
    assert [answer[:3] for answer in page["answers"]] == [
        [0, "sql", 0], [0, "bug-fix", 0], [40, "sql", 0], [40, "bug-fix", 0]
    ]  # fmt: skip
    assert (page["more"], page["reset"], page["wanted"]) == (False, False, 2)
    append_json(samples_file(run), sample_row(60, "sql", done=True))
    later = look(run, page["offset"])
    assert [answer[0] for answer in later["answers"]] == [60] and later["prompts"][0][3].startswith("SELECT")
    assert look(run, later["offset"])["answers"] == []


def test_a_viewer_that_is_ahead_of_the_file_begins_anew(tmp_path):
    run = fake_run(tmp_path, "running", steps=40)
    assert (look(run, 10**9)["reset"], len(look(run, 10**9)["answers"]), look(run, -1)["reset"]) == (True, 4, True)
    samples_file(run).unlink()
    assert look(run, 0) == {"prompts": [], "answers": [], "offset": 0, "more": False, "reset": False, "wanted": 2}
