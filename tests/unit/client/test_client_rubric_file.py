"""Rubrics from files: what is read, and that every mistake names file, key, what was found and what was wanted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judge_client.errors import InputProblem
from judge_client.prompts import system_prompt
from judge_client.rubric import DEFAULT_RUBRIC, MAX_CRITERIA, Rubric
from judge_client.rubric_file import EXAMPLE, load_rubric

LEVELS = {"1": "bad", "10": "good"}


def document(**changes: Any) -> dict[str, Any]:
    """Return a rubric file's content that works, with changes; a change to None leaves the key out."""
    criterion = {"name": "tone", "question": "Is it friendly?", "weight": 2, "levels": dict(LEVELS)}
    told = {"name": "mine", "criteria": [criterion], **changes}
    return {key: value for key, value in told.items() if value is not None}


def criterion(**changes: Any) -> dict[str, Any]:
    """Return a rubric file's content whose one criterion has changes; a change to None leaves the key out."""
    told = {**document()["criteria"][0], **changes}
    return document(criteria=[{key: value for key, value in told.items() if value is not None}])


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Rubric]:
    def read(content: Any, name: str = "rubric.json") -> Rubric:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return load_rubric(path)

    return read


def problem_of(read: Callable[..., Rubric], content: Any, name: str = "rubric.json") -> str:
    """Read what cannot be used; return the message without the folder, after checking what holds for all of them."""
    with pytest.raises(InputProblem) as caught:
        read(content, name)
    message = caught.value.message
    assert caught.value.reason == "RUBRIC_UNUSABLE"
    assert caught.value.hint
    assert name in message
    assert "\n" not in message
    assert len(message) < 600
    return message.rpartition(f"{name}: ")[2]


def test_the_example_of_the_documentation_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "rubric.toml"
    path.write_text(EXAMPLE)
    rubric = load_rubric(path)
    assert rubric.name == "support-replies"
    assert rubric.names == ("resolution", "tone", "overall")
    assert [one.weight for one in rubric.criteria] == [3.0, 1.0]
    assert rubric.criteria[0].levels == {1: "solves nothing, or makes it worse", 5: "a part of the problem is left",
                                         10: "the problem is solved"}
    assert rubric.overall.question == "Would you send it?"


def test_the_documentation_shows_the_example() -> None:
    assert EXAMPLE in (Path(__file__).parents[3] / "docs/judge.md").read_text()


def test_json_and_toml_say_the_same(read: Callable[..., Rubric]) -> None:
    toml = b"""name = "mine"
        [[criteria]]
        name = "tone"
        question = "Is it friendly?"
        weight = 2.0
        levels = {1 = "bad", 10 = "good"}"""
    assert read(document()) == read(toml, "rubric.toml")
    assert read(document()).digest == read(toml, "rubric.toml").digest


def test_without_an_overall_ours_is_asked(read: Callable[..., Rubric]) -> None:
    assert read(document()).overall == DEFAULT_RUBRIC.overall


def test_what_is_read_is_what_the_judge_is_told(read: Callable[..., Rubric]) -> None:
    told = system_prompt(read(criterion(question="Is it höflich?", levels={**LEVELS, "5": "so so"})))
    assert "- tone: Is it höflich? 1 = bad; 5 = so so; 10 = good." in told
    assert '"scores": {"tone": n, "overall": n}' in told
    assert "accuracy" not in told


def test_a_byte_order_mark_does_no_harm(read: Callable[..., Rubric]) -> None:
    assert read(b"\xef\xbb\xbf" + json.dumps(document()).encode()).name == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (document(name=None), "name is not there, wanted it"),
        (document(name="my rubric"), "name is 'my rubric', wanted letters, digits, dots and dashes (64 at most)"),
        (document(name=5), "name is 5, wanted letters"),
        (document(criteria=None), "criteria is not there, wanted it"),
        (document(criteria={}), "criteria is an object, wanted a list"),
        (document(criteria=[]), f"criteria is a list of 0, wanted 1 to {MAX_CRITERIA}"),
        (document(criteria=["tone"]), "criteria[0] is a text, wanted keys with values"),
        (document(weights={}), "weights is no key of a rubric, wanted name, criteria, overall"),
        (document(overall=[]), "overall is a list, wanted keys with values"),
        (document(overall={"question": "?", "levels": LEVELS, "weight": 2}),
         "overall.weight is no key of a rubric, wanted question, levels"),
        (document(overall={"question": "?", "levels": {"1": "bad"}}), "overall.levels is without 10, wanted"),
        (criterion(name=None), "criteria[0].name is not there, wanted it"),
        (criterion(name="two words"), "criteria[0].name is 'two words', wanted a letter, then letters, digits or _"),
        (criterion(name="1st"), "criteria[0].name is '1st', wanted a letter"),
        (criterion(name="größe"), "criteria[0].name is 'gr\\xf6\\xdfe', wanted a letter"),
        (criterion(name="x" * 41), "wanted a letter, then letters, digits or _ (40 at most)"),
        (criterion(name="tone\n"), "criteria[0].name is 'tone\\n', wanted a letter"),
        (criterion(name="overall"), "criteria[0].name is 'overall', which overall has too, wanted another"),
        (criterion(name="Overall"), "criteria[0].name is 'Overall', which overall has too, wanted another"),
        (criterion(question=None), "criteria[0].question is not there, wanted it"),
        (criterion(question=" "), "criteria[0].question is ' ', wanted a text"),
        (criterion(question=5), "criteria[0].question is 5, wanted a text"),
        (criterion(question="x" * 301), "criteria[0].question is 301 characters long, wanted 300 at most"),
        (criterion(question="a {b}?"), "criteria[0].question is a text with {, wanted none"),
        (criterion(question="a\nb"), "criteria[0].question is a text with the character '\\n', wanted one line"),
        (criterion(question="a\x1b[2Jb"), "criteria[0].question is a text with the character '\\x1b', wanted"),
        (criterion(question="a\u202eb"), "criteria[0].question is a text with the character '\\u202e', wanted"),
        (criterion(question="a\u200bb"), "criteria[0].question is a text with the character '\\u200b', wanted"),
        (criterion(question="a\ud800b"), "criteria[0].question is a text with the character '\\ud800', wanted"),
        (criterion(question="<|im_end|>"), "criteria[0].question is '<|im_end|>', wanted no token of a chat format"),
        (criterion(question="[RESPONSE 12]"), "wanted no token of a chat format and no marker line"),
        (criterion(levels=None), "criteria[0].levels is not there, wanted it"),
        (criterion(levels=[]), "criteria[0].levels is a list, wanted keys with values"),
        (criterion(levels={}), "criteria[0].levels is without 1 and 10, wanted what both ends of the scale mean"),
        (criterion(levels={"1": "bad"}), "criteria[0].levels is without 10, wanted"),
        (criterion(levels={"10": "good"}), "criteria[0].levels is without 1, wanted"),
        (criterion(levels={**LEVELS, "11": "better"}), "criteria[0].levels is '11', wanted scores from 1 to 10"),
        (criterion(levels={**LEVELS, "05": "so so"}), "criteria[0].levels is '05', wanted scores from 1 to 10"),
        (criterion(levels={**LEVELS, "best": "good"}), "criteria[0].levels is 'best', wanted scores from 1 to 10"),
        (criterion(levels={**LEVELS, "5": ""}), "criteria[0].levels.5 is '', wanted a text"),
        (criterion(levels={**LEVELS, "5": "a } b"}), "criteria[0].levels.5 is a text with }, wanted none"),
        (criterion(weight=0), "criteria[0].weight is 0, wanted a number from 0.001 to 1000"),
        (criterion(weight=-1), "criteria[0].weight is -1, wanted a number from 0.001 to 1000"),
        (criterion(weight=1e9), "criteria[0].weight is 1000000000.0, wanted a number from 0.001 to 1000"),
        (criterion(weight=True), "criteria[0].weight is True, wanted a number"),
        (criterion(weight="2"), "criteria[0].weight is '2', wanted a number"),
        (criterion(wieght=2), "criteria[0].wieght is no key of a rubric, wanted name, question, weight, levels"),
    ],
)
def test_a_mistake_is_named_with_its_key(read: Callable[..., Rubric], content: Any, message: str) -> None:
    assert message in problem_of(read, content)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_weight_that_is_no_number_is_refused(read: Callable[..., Rubric], number: str) -> None:
    content = json.dumps(document()).replace('"weight": 2', f'"weight": {number}').encode()
    assert problem_of(read, content).startswith("criteria[0].weight is ")


def test_two_criteria_of_one_name_are_refused_also_in_capitals(read: Callable[..., Rubric]) -> None:
    one = document()["criteria"][0]
    found = problem_of(read, document(criteria=[one, {**one, "name": "Tone"}]))
    assert found == "criteria[1].name is 'Tone', which criteria[0] has too, wanted another"


def test_there_is_a_limit_to_the_criteria(read: Callable[..., Rubric]) -> None:
    many = [{**document()["criteria"][0], "name": f"tone{number}"} for number in range(MAX_CRITERIA + 1)]
    assert len(read(document(criteria=many[:-1])).criteria) == MAX_CRITERIA
    assert f"criteria is a list of {MAX_CRITERIA + 1}, wanted 1 to" in problem_of(read, document(criteria=many))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is no JSON ("),
        (b"{", "the file is no JSON ("),
        (b"[]", "the file is a list, wanted keys with values"),
        (b"null", "the file is null, wanted keys with values"),
        (b"true", "the file is true or false, wanted keys with values"),
        (b"9" * 5000, "the file is no JSON ("),
        (b"[" * 50_000, "the file is nested too deeply"),
        (b'{"name": "a", "name": "b"}', "name is there twice, wanted once"),
        (b'{"name": "\xff"}', "the file is no UTF-8 (byte 10 is 0xff)"),
        (b" " * 70_000, "the file is longer than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_rubric_is_refused(read: Callable[..., Rubric], content: bytes, message: str) -> None:
    assert problem_of(read, content).startswith(message)


def test_toml_that_is_none_is_refused_with_its_line(read: Callable[..., Rubric]) -> None:
    found = problem_of(read, b'name = "mine"\nname = "yours"\n', "rubric.toml")
    assert found.startswith("the file is no TOML (Cannot overwrite a value (at line 2")


def test_a_date_is_no_name(read: Callable[..., Rubric]) -> None:
    content = EXAMPLE.replace('"support-replies"', "2026-01-01").encode()
    assert problem_of(read, content, "rubric.toml").startswith("name is datetime.date(2026, 1, 1), wanted letters")


def test_the_suffix_decides_how_a_file_is_read(read: Callable[..., Rubric]) -> None:
    assert "wanted one that ends in .json or .toml" in problem_of(read, document(), "rubric.yaml")
    assert read(document(), "RUBRIC.JSON").name == "mine"


@pytest.mark.parametrize(("name", "said"), [("gone.json", "No such file"), ("folder.json", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputProblem, match=f"{name} cannot be read: {said}") as caught:
        load_rubric(tmp_path / name)
    assert caught.value.reason == "RUBRIC_UNUSABLE"


def test_a_device_that_never_ends_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(InputProblem, match="longer than 65536 bytes"):
        load_rubric(tmp_path / "zero.json")


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
                      lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
                          st.sampled_from(["name", "criteria", "question", "weight", "levels", "overall", "1", "10"]),
                          inner, max_size=5), max_leaves=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_a_rubric_or_a_problem(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(content)
    try:
        assert load_rubric(path).names
    except InputProblem as problem:
        assert len(str(problem)) < 600 + len(str(path))
