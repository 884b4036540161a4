"""The report in a real browser: on a phone and on a desk, in the light and in the dark, with hostile texts on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_client.report import read_report, render
from playwright.sync_api import Browser, Page, sync_playwright
from report_results import HOSTILE, failed, line, provenance, sample, sample_pairs, verdict, write, write_summary

SIZES = {"phone": (360, 740), "desk": (1280, 800)}
# Only a hang takes so long: a browser on a machine that has much else to do can be slow.
PATIENCE_MS = 180_000
LOOKS = [(size, scheme) for size in SIZES for scheme in ("light", "dark")]
SECTIONS = {
    "answers": ["glance", "criteria", "weighted", "agreement", "unscored", "suspects", "lowest", "slowest", "requests",
                "canaries", "provenance"],
    "pairs": ["glance", "wins", "unscored", "suspects", "slowest", "requests", "provenance"],
    "hostile": ["glance", "criteria", "weighted", "unscored", "suspects", "lowest", "slowest", "requests",
                "provenance"],
}  # fmt: skip

# The smallest size of any text that is seen, in the pixels of the screen: what is drawn in a chart is scaled with it.
SMALLEST_TEXT = """() => {
  let smallest = [99, ""];
  for (const element of document.querySelectorAll("body *:not(.unseen):not(.unseen *)")) {
    const text = [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.data.trim()).join("");
    if (!text || !element.checkVisibility()) continue;
    const scale = element.ownerSVGElement ? element.getScreenCTM().a : 1;
    const size = parseFloat(getComputedStyle(element).fontSize) * scale;
    if (size < smallest[0]) smallest = [size, text];
  }
  return smallest;
}"""

# The texts whose contrast with what is behind them is less than WCAG AA wants: 4.5, or 3 for large ones.
WEAK_TEXTS = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = text => {
    const [r, g, b] = parse(text).map(one => one / 255).map(
      one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      const alpha = parse(colour)[3];
      if (alpha === undefined || alpha > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const weak = [];
  for (const element of document.querySelectorAll("body *:not(.unseen):not(.unseen *)")) {
    const text = [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.data.trim()).join("");
    if (!text || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    let ink = style.color, behind = ground(element);
    if (element.ownerSVGElement) {
      ink = style.fill;
      const level = [...element.classList].find(name => name.startsWith("on"));
      if (level) behind = getComputedStyle(document.querySelector(".cell.level" + level.slice(2))).fill;
    }
    const [a, b] = [light(ink), light(behind)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    const wanted = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (contrast < wanted) weak.push([contrast.toFixed(2), ink, behind, text.slice(0, 40)]);
  }
  return weak;
}"""

# What is wider than the screen, or is cut off by the box that it stands in.
TOO_WIDE = """() => [...document.querySelectorAll("body *:not(.unseen):not(.unseen *)")].filter(element =>
    element.checkVisibility() && getComputedStyle(element).position !== "absolute" &&
    element.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  ).map(element => element.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium; skip, saying what is missing, where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("the report cannot be looked at here: chromium is missing (make browser-packages)")
    with sync_playwright() as playwright:
        # Tests run as root here and there, and Chromium's own sandbox does not.
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield started
        started.close()


def hostile_lines() -> list[dict[str, Any]]:
    lines = []
    for index, text in enumerate(HOSTILE):
        said = provenance(model_commit=text, image=text, rubric=text, repo_id=text, sampling={text: text})
        judged = verdict(1 + index % 10, grounds=[("HIDDEN_TEXT", text[:120])], said=said, reasoning=text, model=text)
        lines.append(line(index, judged, text, text, id=text or "empty"))
    return [*lines, line(len(lines), failed(message=HOSTILE[0]), HOSTILE[1], "x" * 1_000_000)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write three pages: a batch with all that a page can have, comparisons, and texts by somebody who means harm."""
    folder = tmp_path_factory.mktemp("report")
    answers = write(folder / "answers.jsonl", sample(600))
    write_summary(answers, 600, 579, floor=0.99, canaries_ok=False)
    gold = write(folder / "gold.jsonl", [
        {"id": one["id"], "original_prompt": one["original_prompt"], "model_response": one["model_response"],
         "scores": {name: max(1, score - number % 3) for name, score in one["verdict"]["categories"].items()},
         "note": ""}
        for number, one in enumerate(sample(600)[10:60]) if one["verdict"]["status"] == "scored"])
    found = {"answers": read_report(answers, gold), "pairs": read_report(write(folder / "p.jsonl", sample_pairs(120))),
             "hostile": read_report(write(folder / "h.jsonl", hostile_lines()))}
    places = {}
    for name, report in found.items():
        places[name] = folder / f"{name}.html"
        places[name].write_text(render(report, HOSTILE[1] if name == "hostile" else None))
    return places


class Seen:
    """A page that is open, and what happened on it that should not have."""

    def __init__(self, browser: Browser, place: Path, size: str, scheme: Any) -> None:
        width, height = SIZES[size]
        self._context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self._context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self._context.new_page()
        self.trouble: list[str] = []
        self.page.on("console", lambda said: self.trouble.append(f"console: {said.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("popup", lambda popup: self.trouble.append(f"popup: {popup.url}"))
        self.url = place.as_uri()
        self.page.on("request", lambda asked: self.trouble.append(f"request: {asked.url}")
                     if asked.url != self.url else None)
        self.page.goto(self.url)

    def close(self) -> None:
        self._context.close()


@pytest.fixture(params=[f"{name}-{size}-{scheme}" for name in SECTIONS for size, scheme in LOOKS])
def seen(request: pytest.FixtureRequest, browser: Browser, pages: dict[str, Path]) -> Iterator[Seen]:
    """Open a page with everything on it unfolded."""
    name, size, scheme = request.param.split("-")
    opened = Seen(browser, pages[name], size, scheme)
    opened.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    yield opened
    opened.close()


def test_a_page_can_be_read_as_it_is(seen: Seen, request: pytest.FixtureRequest) -> None:
    page = seen.page
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(TOO_WIDE) == []
    size, text = page.evaluate(SMALLEST_TEXT)
    assert size >= 14, f"{text!r} is {size} pixels high"
    assert page.evaluate(WEAK_TEXTS) == []
    name = request.node.callspec.id.partition("-")[0]
    for section in SECTIONS[name]:
        assert page.locator(f"#{section}").is_visible(), section
    assert page.evaluate("[...document.querySelectorAll('section')].map(one => one.id).filter(Boolean)") == (
        SECTIONS[name])
    assert seen.trouble == []


def test_dark_and_light_are_two_looks(browser: Browser, pages: dict[str, Path]) -> None:
    colours = []
    for scheme in ("light", "dark"):
        opened = Seen(browser, pages["answers"], "desk", scheme)
        colours.append(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        opened.close()
    light, dark = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert light > 600
    assert dark < 150


def test_hostile_texts_stay_text(browser: Browser, pages: dict[str, Path]) -> None:
    opened = Seen(browser, pages["hostile"], "phone", "light")
    page = opened.page
    wrong = page.locator("script, iframe, img, form, input, button, object, embed, base, a[href^=javascript]")
    assert wrong.count() == 0
    assert page.locator("style").count() == 1
    assert page.locator("meta[http-equiv]").count() == 1
    assert page.locator("h1").inner_text().startswith("</bdi></dd></style></title></script><iframe src=")
    assert page.title().startswith("</bdi></dd></style></title>")
    # Whatever a text may have made of itself is given time, and a reader's clicks.
    for _ in range(3):
        page.mouse.move(180, 300)
        page.keyboard.press("Tab")
    page.locator("summary").first.click()
    page.wait_for_timeout(300)
    assert page.url == opened.url
    assert opened.trouble == []
    opened.close()


def test_a_bidi_override_turns_nothing_around(browser: Browser, pages: dict[str, Path]) -> None:
    opened = Seen(browser, pages["hostile"], "desk", "light")
    assert opened.page.evaluate("""() => {
      const invisible = /[\\u202a-\\u202e\\u2066-\\u2069\\u200b\\u200e\\u200f\\ufeff]/;
      return invisible.test(document.body.innerText) || invisible.test(document.title);
    }""") is False
    assert opened.page.get_by_text("U+202E").first.is_visible()
    assert opened.page.evaluate("[...document.querySelectorAll('bdi')].every("
                                "one => getComputedStyle(one).unicodeBidi === 'isolate')")
    opened.close()


def test_what_is_stacked_upon_letters_stays_in_its_box(browser: Browser, pages: dict[str, Path]) -> None:
    opened = Seen(browser, pages["hostile"], "desk", "light")
    assert opened.page.evaluate("[...document.querySelectorAll('bdi')].every(one => "
                                "one.closest('dd, q, h1, h3, td, th, li, p, span') !== null)")
    assert opened.page.evaluate("[...document.querySelectorAll('.texts dd')].every(one => "
                                "getComputedStyle(one).overflow === 'clip')")
    opened.close()


def test_the_policy_of_the_page_would_stop_what_got_through(browser: Browser, pages: dict[str, Path],
                                                            tmp_path: Path) -> None:
    """Put the worst into the page by hand: the browser must neither run nor load it."""
    broken = tmp_path / "broken.html"
    broken.write_text(pages["answers"].read_text().replace(
        "</main>", "<script>window.ran = 1</script><img src='file:///x.png' onerror='window.ran = 2'>"
                   "<iframe src='https://attacker.example/'></iframe></main>"))
    opened = Seen(browser, broken, "desk", "light")
    for _ in range(100):
        opened.page.wait_for_timeout(300)
        if "Content Security Policy" in " ".join(opened.trouble):
            break
    assert opened.page.evaluate("window.ran") is None
    told = " ".join(opened.trouble)
    assert "Content Security Policy" in told
    assert "dialog" not in told
    opened.close()


def test_a_printed_page_is_light_and_has_everything_on_it(browser: Browser, pages: dict[str, Path]) -> None:
    opened = Seen(browser, pages["answers"], "desk", "dark")
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.page.evaluate(WEAK_TEXTS) == []
    assert opened.page.evaluate("[...document.querySelectorAll('details .item')].every(one => one.checkVisibility("
                                "{contentVisibilityAuto: true}))")
    assert not opened.page.locator("nav").is_visible()
    opened.close()


def test_a_page_works_without_scripts(browser: Browser, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(pages["answers"].as_uri())
    assert page.get_by_role("heading", name="Scores by criterion").is_visible()
    assert page.get_by_role("img", name=re.compile("^accuracy: how often each score")).count() == 1
    page.get_by_role("link", name="Provenance").click()
    assert page.url.endswith("#provenance")
    context.close()


def test_a_phone_reads_a_table_as_a_list_and_a_reader_as_a_table(browser: Browser, pages: dict[str, Path]) -> None:
    opened = Seen(browser, pages["answers"], "phone", "light")
    table = opened.page.locator("#canaries table")
    assert table.locator("td").first.evaluate("one => getComputedStyle(one).display") == "flex"
    assert table.locator("td").first.evaluate("one => getComputedStyle(one, '::before').content") == '"Known as"'
    assert opened.page.get_by_role("table").count() == opened.page.locator("table").count()
    assert opened.page.get_by_role("rowheader", name="known good").count() == 1
    opened.close()
