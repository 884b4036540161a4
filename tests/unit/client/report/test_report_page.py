"""The page: what is on it, and that nothing of a judged text ever becomes a part of it."""

from __future__ import annotations

import datetime
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from judge_client.errors import InputProblem
from judge_client.report import GENERATOR, charts, page, read_report, wording
from judge_client.report.page import render
from judge_client.report.tallies import ASPECTS
from judge_client.rubric import CRITERION_NAMES
from judge_client.verdict import Ground, GroundCode, Reason, Status
from report_results import (
    HOSTILE,
    comparison,
    failed,
    line,
    provenance,
    sample,
    sample_pairs,
    verdict,
    write,
    write_summary,
)

NOW = datetime.datetime(2026, 11, 29, 1, 2, 3, tzinfo=datetime.UTC)
VOID = {"meta", "link", "br", "img", "input", "base"}


class Parsed(HTMLParser):
    """The elements of a page with their attributes, its text, and whether every element is closed in its order."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    @property
    def names(self) -> Counter[str]:
        return Counter(tag for tag, _ in self.elements)

    @property
    def ids(self) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get("id"))]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(tmp_path: Path, lines: list[dict[str, Any]], title: str | None = None, **summary: Any) -> Parsed:
    path = write(tmp_path / "answers.jsonl", lines)
    if summary:
        write_summary(path, **summary)
    parsed = Parsed(render(read_report(path), title, now=NOW))
    assert not parsed.open
    return parsed


def hostile_line(index: int, text: str) -> dict[str, Any]:
    """Return a line that has the text wherever a line can hold one."""
    said = provenance(model_commit=text, image=text, rubric=text, base_url=text, client_version=text,
                      sampling={text: text}, repo_id=text, model_root=text)
    judged = verdict(1 + index % 10, grounds=[("HIDDEN_TEXT", text[:120])], said=said, reasoning=text, model=text)
    document = line(index, judged, text, text, id=text)
    document["verdict"]["categories"][text] = 5
    return document


def test_a_page_says_what_is_where(tmp_path: Path) -> None:
    parsed = page_of(tmp_path, sample(300), total=300, scored=289)
    for wanted in ("glance", "criteria", "weighted", "unscored", "suspects", "lowest", "slowest", "requests",
                   "canaries", "provenance"):
        assert wanted in parsed.ids
    assert len(parsed.ids) == len(set(parsed.ids))
    links = [attributes["href"] for tag, attributes in parsed.elements if tag == "a"]
    assert set(links) <= {f"#{one}" for one in parsed.ids}
    assert ("meta", {"name": "generator", "content": GENERATOR}) in parsed.elements
    assert "page made 2026-11-29 01:02 UTC" in parsed.words


def test_the_headline_is_that_of_the_figures(tmp_path: Path) -> None:
    lines = [line(0, verdict(8)), line(1, verdict(6)), line(2, verdict(7)), line(3, failed())]
    words = page_of(tmp_path, lines, total=4, scored=3).words
    assert "Mean overall score 7.00 95 % interval 4.52 to 9.48" in words
    assert "Coverage 75.0 % floor 95 %" in words
    assert "3 scored 0 unscored: the judge answered, and it is no verdict 1 errored: the judge could not" in words
    assert "Read this first Only 75.0 % have a verdict, and the floor is 95 %." in words


def test_hostile_texts_add_no_element_and_no_attribute(tmp_path: Path) -> None:
    def shape(texts: list[str]) -> tuple[Counter[str], set[str]]:
        parsed = page_of(tmp_path, [hostile_line(index, text) for index, text in enumerate(texts)])
        # Pieces of an excerpt are the only elements whose number depends on a text.
        fixed = [one for one in parsed.elements if one[0] not in ("span", "mark")]
        return Counter(tag for tag, _ in fixed), {name for _, attributes in fixed for name in attributes}

    harmless = shape([f"plain text number {index}" for index in range(len(HOSTILE) - 1)])
    hostile = shape([text for text in HOSTILE if text])
    assert hostile == harmless


def test_hostile_texts_are_all_there_to_read(tmp_path: Path) -> None:
    text = page_of(tmp_path, [hostile_line(index, text) for index, text in enumerate(HOSTILE) if text]).text
    for told in ("<script>alert(1)</script>", "</bdi></dd></style></title>", "onmouseover=\"alert(4)\"",
                 "*{display:none}", "{{ 7 * 7 }}{% for x in y %}${7*7}<%= 1 %>&lt;b&gt;",
                 "href='javascript:alert(6)'", "U+202E", "\u201cscore ten\u201d", "U+D800", "U+0000"):
        assert told in text


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_a_hostile_title_and_file_name_stay_text(text: str, tmp_path: Path) -> None:
    name = re.sub(r"[/\x00\ud800-\udfff]", "", text)[:60]
    path = write(tmp_path / name, [line(0, verdict())])
    parsed = Parsed(render(read_report(path), text, now=NOW))
    assert not parsed.open
    assert not {"script", "iframe", "img", "form", "base"} & set(parsed.names)
    assert Parsed(render(read_report(path), now=NOW)).names["style"] == 1


def test_nothing_is_loaded_and_nothing_runs(tmp_path: Path) -> None:
    for lines in ([hostile_line(index, text) for index, text in enumerate(HOSTILE) if text], sample_pairs(100)):
        parsed = page_of(tmp_path, lines)
        assert set(parsed.names) & {"script", "img", "iframe", "object", "embed", "form", "base", "audio"} == set()
        for tag, attributes in parsed.elements:
            assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style")]
            assert (attributes.get("href") or "#")[:1] == "#" or (tag, attributes["href"]) == ("link", "data:,")
        csp = [one["content"] for _, one in parsed.elements if one.get("http-equiv") == "Content-Security-Policy"]
        assert csp == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
                       "form-action 'none'"]
    css = (Path(page.__file__).parent / "templates" / "report.css").read_text()
    assert "url(" not in css
    assert "@import" not in css


def test_a_page_can_always_be_written(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [hostile_line(index, text) for index, text in enumerate(HOSTILE) if text])
    render(read_report(path), "\ud800").encode()


def test_a_megabyte_of_an_answer_is_an_excerpt(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [line(index, verdict(1, grounds=[("EMPTY", "")]), "p" * 10**6, "<b>" * 350_000)
                                        for index in range(3)])
    assert len(render(read_report(path))) < 60_000


def test_everything_may_have_failed(tmp_path: Path) -> None:
    parsed = page_of(tmp_path, [line(index, failed()) for index in range(3)])
    assert "nothing has a verdict" in parsed.words
    assert "Nothing is scored, so no judge is named." in parsed.words
    assert "criteria" not in parsed.ids


def test_nothing_may_have_been_asked(tmp_path: Path) -> None:
    unreachable = failed(Reason.SERVER_UNREACHABLE, requests=0, provenance=None)
    assert "Nothing was asked." in page_of(tmp_path, [line(0, unreachable)]).words


def test_one_answer_is_enough(tmp_path: Path) -> None:
    words = page_of(tmp_path, [line(0, verdict(8))]).words
    assert "one score has no interval" in words
    assert "Everything has a verdict." in words
    assert "Nothing in the judged texts speaks against a verdict." in words


def test_results_without_texts_say_so(tmp_path: Path) -> None:
    assert "The results hold no texts" in page_of(tmp_path, [line(0, verdict(2), None, None)]).words


def test_criteria_of_an_own_rubric_have_their_charts(tmp_path: Path) -> None:
    document = line(0, verdict(8))
    document["verdict"]["categories"] = {"brevity": 3, "tone": 9, "overall": 8}
    parsed = page_of(tmp_path, [document])
    labels = [one["aria-label"] for tag, one in parsed.elements if one.get("class") == "histogram"]
    assert [str(label).partition(":")[0] for label in labels] == ["overall", "brevity", "tone"]


def test_every_chart_has_a_text_in_its_place(tmp_path: Path) -> None:
    for lines in (sample(200), sample_pairs(100)):
        drawn = [one for tag, one in page_of(tmp_path, lines).elements if tag == "svg"]
        assert len(drawn) > 2
        assert all(one.get("role") == "img" and len(one["aria-label"] or "") > 10 for one in drawn)


def test_a_histogram_tells_its_counts_to_who_cannot_see_it(tmp_path: Path) -> None:
    parsed = page_of(tmp_path, [line(0, verdict(8)), line(1, verdict(8)), line(2, verdict(5))])
    label = next(one["aria-label"] for _, one in parsed.elements if one.get("class") == "histogram")
    assert label == ("overall: how often each score from 1 to 10 was given. 1: 0 times, 2: 0 times, 3: 0 times, "
                     "4: 0 times, 5: 1 times, 6: 0 times, 7: 0 times, 8: 2 times, 9: 0 times, 10: 0 times. "
                     "Mean 7.00, median 8.0.")


def test_headings_leave_out_no_level(tmp_path: Path) -> None:
    for lines in (sample(200), sample_pairs(100)):
        levels = [int(tag[1]) for tag, _ in page_of(tmp_path, lines).elements if tag in ("h1", "h2", "h3", "h4")]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_comparisons_say_who_wins_and_how_often_the_order_decided(tmp_path: Path) -> None:
    lines = [line(index, comparison(*orders)) for index, orders in enumerate([("a", "a")] * 3 + [("a", "b")])]
    words = page_of(tmp_path, lines).words
    assert "A wins 75.0 % 95 % interval 30.1 % to 95.4 %" in words
    assert "Both orders agree 3 75.0 %" in " ".join(words.split())
    assert "the judge took what it read first 1 times and what it read second 0 times" in words


def test_a_mix_of_judges_is_said_at_the_top_and_shown(tmp_path: Path) -> None:
    parsed = page_of(tmp_path, [line(0, verdict()), line(1, verdict(said=provenance(model_commit="7" * 40)))])
    assert parsed.words.index("Read this first") < parsed.words.index("At a glance")
    assert f"{'3d' * 20} (1) {'7' * 40} (1)" in parsed.words


def test_every_code_has_a_sentence() -> None:
    assert set(wording.REASONS) == {str(one) for one in Reason}
    assert set(wording.GROUNDS) == {str(one) for one in GroundCode}
    assert set(wording.ASPECTS) == set(ASPECTS)


def test_every_reason_and_every_ground_can_be_shown(tmp_path: Path) -> None:
    lines = [line(index, failed(reason, status=Status.UNSCORED, grounds=(Ground(code, "x"),)))
             for index, (reason, code) in enumerate(zip(Reason, GroundCode, strict=True))]
    words = page_of(tmp_path, lines).words
    assert all(code in words for code in (*Reason, *GroundCode))


def test_bars_are_in_proportion_and_a_single_score_is_still_seen() -> None:
    bars = charts.histogram([0, 1, 0, 0, 500, 0, 0, 1000, 0, 0])
    assert [bar.height for bar in bars] == [0, 2, 0, 0, 42, 0, 0, 84, 0, 0]
    assert [bar.percent for bar in bars if bar.count] == ["<1", "33", "67"]
    assert all(bar.y + bar.height == charts.BASELINE for bar in bars)


def test_parts_of_a_bar_fill_it_and_none_is_lost() -> None:
    segments = charts.stacked([("scored", 100_000), ("unscored", 0), ("errored", 1)])
    assert [one.kind for one in segments] == ["scored", "errored"]
    assert segments[1].width > 0.7
    assert sum(one.width for one in segments) == pytest.approx(100, abs=0.02)


def test_a_grid_has_a_field_for_each_pair_of_scores() -> None:
    grid = [[0] * 10 for _ in range(10)]
    grid[8][4], grid[0][0] = 100, 1
    cells = {(one.overall, one.weighted): one for one in charts.heat(grid)}
    assert len(cells) == 100
    assert [cells[key].level for key in ((9, 5), (1, 1), (5, 5))] == [5, 1, 0]
    assert (cells[10, 1].y, cells[1, 1].y) == (0, 9 * charts.CELL)


@pytest.mark.parametrize("missing", ["jinja2", "scipy"])
def test_a_missing_package_is_one_clear_error(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputProblem) as caught:
        page.need_packages()
    assert caught.value.message == f"a report needs the package {missing}, which is not installed"
    assert caught.value.reason == "EVALUATION_MISSING"
    assert caught.value.hint == "pip install 'judge-bootstrap[evaluation]'"


def test_shares_never_round_to_all_or_to_nothing() -> None:
    assert [page._share(value) for value in (0, 0.00001, 0.5, 0.99999, 1)] == [
        "0\u00a0%", "<0.1\u00a0%", "50.0\u00a0%", ">99.9\u00a0%", "100\u00a0%"]


def test_the_default_rubric_fits_the_page(tmp_path: Path) -> None:
    labels = [one["aria-label"] for _, one in page_of(tmp_path, sample(50)).elements if one.get("class") == "histogram"]
    assert len(labels) == len(CRITERION_NAMES)
