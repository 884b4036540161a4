"""Baselines: drift that is there is found, drift that is not is not, and no other file is written over."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_client.calibration import Baseline, check_place, drift, read_baseline, write_baseline
from judge_client.errors import InputProblem

NAMES = ("warmth", "overall")
BASELINE = Baseline(
    time="2026-01-02T03:04:05+00:00", client_version="0.1.0", model="judge", model_root="/models/judge",
    repo_id="org/judge", model_commit="0" * 40, manifest_digest=None, image=None, prompt_sha256="p", rubric="tone",
    rubric_sha256="r", gold="gold.jsonl", gold_sha256="g", sampling={"temperature": 0.0}, rounds=2,
    scores={"b": {"warmth": [8, 8], "overall": [7, 6]}, "a": {"warmth": [1], "overall": [10]}})


def rounds(*warmth: Sequence[int], overall: int = 5) -> dict[str, dict[str, list[int]]]:
    """Return items with these scores of warmth, by round."""
    return {f"i{number}": {"warmth": list(given), "overall": [overall]} for number, given in enumerate(warmth)}


def moved(by: Sequence[int], before: int = 5) -> Mapping[str, Any]:
    """Return what drift() says of items whose warmth moved so."""
    found = drift(rounds(*[[before]] * len(by)), rounds(*[[before + one] for one in by]), NAMES, 0.5)
    json.dumps(found, allow_nan=False)
    return found


def test_the_same_scores_are_no_drift() -> None:
    found = moved([0] * 20)
    assert found["verdict"] == "ok"
    assert found["criteria"]["warmth"]["mean_difference"]["value"] == 0


def test_a_criterion_that_moved_is_named_and_the_others_are_not() -> None:
    found = moved([1, 2, 1, 2, 3, 2, 1, 2, 2, 2])
    assert found["verdict"] == "drift"
    warmth, overall = found["criteria"]["warmth"], found["criteria"]["overall"]
    assert (warmth["drift"], warmth["shown"], overall["drift"]) == (True, True, False)
    assert warmth["mean_difference"]["value"] == 1.8
    assert warmth["why"].startswith("moved by +1.80 points, from +1.")


def test_a_stricter_judge_drifts_too() -> None:
    assert moved([-1, -2, -1, -2, -3, -2, -1, -2, -2, -2])["criteria"]["warmth"]["mean_difference"]["value"] == -1.8
    assert moved([-1, -2, -1, -2, -3, -2, -1, -2, -2, -2])["verdict"] == "drift"


def test_points_that_went_from_some_items_to_others_are_drift_though_the_mean_holds() -> None:
    found = moved([3, -3, 4, -4] * 10)["criteria"]["warmth"]
    assert found["mean_difference"]["value"] == 0
    assert (found["drift"], found["shown"]) == (True, True)
    assert found["why"].startswith("scores are 3.50 points away on average")


def test_all_items_moved_alike_is_as_clear_as_can_be() -> None:
    found = moved([1] * 12)["criteria"]["warmth"]
    assert (found["drift"], found["shown"], found["mean_difference"]["low"]) == (True, True, None)


def test_a_move_within_the_tolerance_is_none() -> None:
    assert moved([0, 0, 0, 1] * 15)["verdict"] == "ok"


def test_too_few_items_to_rule_drift_out_are_not_called_ok() -> None:
    found = moved([0, 0, 0, 0, 0, 0, 0, 0, 0, 4])["criteria"]["warmth"]
    assert (found["drift"], found["shown"]) == (True, False)
    assert found["why"].startswith("may have moved by more than 0.5 points")


def test_less_than_ten_items_tell_nothing() -> None:
    found = moved([0] * 9)
    assert found["verdict"] == "drift"
    assert found["criteria"]["warmth"]["why"] == "9 items, wanted 10 to tell drift"


def test_the_mean_of_the_rounds_counts() -> None:
    before, now = rounds(*[[4, 6]] * 12), rounds(*[[5, 5, 5]] * 12)
    assert drift(before, now, NAMES, 0.5)["criteria"]["warmth"]["mean_difference"]["value"] == 0


def test_items_that_only_one_of_them_has_are_left_out() -> None:
    before, now = rounds(*[[5]] * 12), rounds(*[[5]] * 15)
    assert drift(before, now, NAMES, 0.5)["items"] == 12
    assert drift(now, before, NAMES, 0.5)["criteria"]["warmth"]["items"] == 12


def test_a_judge_that_wavers_by_a_point_now_and_then_raises_no_alarm() -> None:
    drawn = random.Random(11)
    alarms = [moved([drawn.choice((-1, 0, 0, 0, 0, 0, 0, 1)) for _ in range(55)])["verdict"] for _ in range(40)]
    assert alarms.count("drift") == 0


def test_half_of_the_items_a_point_lower_beyond_the_tolerance_is_found_nearly_always() -> None:
    drawn = random.Random(12)
    found = [moved([-drawn.choice((0, 1, 1, 1)) for _ in range(55)])["verdict"] for _ in range(40)]
    assert found.count("drift") == 40


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_baseline(tmp_path / "base.json", BASELINE)
    assert read_baseline(tmp_path / "base.json") == BASELINE
    assert [path.name for path in tmp_path.iterdir()] == ["base.json"]


def test_each_item_is_a_line_so_that_a_diff_shows_which_moved(tmp_path: Path) -> None:
    write_baseline(tmp_path / "base.json", BASELINE)
    lines = (tmp_path / "base.json").read_text().splitlines()
    assert '    "b": {"warmth": [8, 8], "overall": [7, 6]}' in lines


def test_a_baseline_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    write_baseline(path, BASELINE)
    write_baseline(path, replace(BASELINE, model="other"))
    assert read_baseline(path).model == "other"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"kind": "judge-calibration"}', "not JSON", "\x00"])
def test_a_file_that_is_no_baseline_is_never_written_over(tmp_path: Path, content: str) -> None:
    path = tmp_path / "base.json"
    path.write_text(content)
    with pytest.raises(InputProblem, match="it is not written over") as caught:
        write_baseline(path, BASELINE)
    assert caught.value.reason == "OUTPUT_EXISTS"
    assert path.read_text() == content


def test_neither_a_folder_nor_a_broken_link_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(InputProblem, match="it is not written over"):
            check_place(path)


def test_a_link_leads_to_the_file_that_is_written(tmp_path: Path) -> None:
    write_baseline(tmp_path / "base.json", BASELINE)
    (tmp_path / "link.json").symlink_to("base.json")
    write_baseline(tmp_path / "link.json", replace(BASELINE, model="other"))
    assert (tmp_path / "link.json").is_symlink()
    assert read_baseline(tmp_path / "base.json").model == "other"


def test_a_full_disk_leaves_the_old_baseline_and_no_scraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "base.json"
    write_baseline(path, BASELINE)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_baseline(path, replace(BASELINE, model="other"))
    monkeypatch.undo()
    assert read_baseline(path) == BASELINE
    assert [one.name for one in tmp_path.iterdir()] == ["base.json"]


@pytest.mark.parametrize(("changes", "found"), [
    ({"kind": "golden"}, "its kind is not 'judge-calibration'"),
    ({"schema": 2}, "has the schema '2', wanted 1"),
    ({"schema": True}, "has the schema 'True', wanted 1"),
    ({"model": 7}, "has a model that is no text"),
    ({"prompt_sha256": None}, "has a prompt_sha256 that is no text"),
    ({"rounds": 0}, "has rounds that are no number from 1"),
    ({"sampling": []}, "has a sampling that is no object"),
    ({"scores": {}}, "has no scores"),
    ({"scores": {"a": {"warmth": [11]}}}, "has scores of 'a' that are no lists of integers from 1 to 10"),
    ({"scores": {"a": {"warmth": []}}}, "has scores of 'a' that are no lists"),
    ({"scores": {"a": {"warmth": 3}}}, "has scores of 'a' that are no lists"),
])
def test_a_file_that_is_nearly_a_baseline_says_what_is_wrong(tmp_path: Path, changes: Any, found: str) -> None:
    path = tmp_path / "base.json"
    write_baseline(path, BASELINE)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputProblem) as caught:
        read_baseline(path)
    assert found in caught.value.message
    assert caught.value.reason == "BASELINE_UNUSABLE"


def test_a_baseline_without_a_key_names_it(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    write_baseline(path, BASELINE)
    document = json.loads(path.read_text())
    del document["gold_sha256"]
    path.write_text(json.dumps(document))
    with pytest.raises(InputProblem, match="has no gold_sha256"):
        read_baseline(path)


def test_scores_for_another_question_are_refused_by_name() -> None:
    same = {"prompt_sha256": "p", "rubric_sha256": "r", "gold_sha256": "g"}
    BASELINE.check_same("base.json", **same)
    for key, what in (("prompt_sha256", "prompts"), ("rubric_sha256", "rubric"), ("gold_sha256", "gold set")):
        with pytest.raises(InputProblem, match=f"base.json was accepted on .* with another {what} ") as caught:
            BASELINE.check_same("base.json", **{**same, key: "other"})
        assert caught.value.reason == "BASELINE_UNUSABLE"
