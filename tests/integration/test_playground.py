"""A visitor's session with the playground, in a real browser."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from embedspace import EmbeddingSpace, StyleVector
from embedspace.playground.engines import EngineChoice
from embedspace.playground.materials import Materials
from tests.fake_vllm import FakeVLLM, events
from tests.playground_visits import CHROMIUM, WAIT, ask, chromium, served, shown_answer, tab

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="the browser's driver is not installed: pip install playwright"
)
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script><b>bold</b>'

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium on this machine to open the page with"
)


@pytest.fixture(scope="module")
def materials(smollm2: EmbeddingSpace) -> Materials:
    random = StyleVector.random(smollm2, norm=4.5, seed=0)
    return Materials(smollm2, {"a direction": random})


@pytest.fixture(scope="module")
def address(materials: Materials) -> Iterator[str]:
    with served(materials, EngineChoice()) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab that notes what it asks for and what goes wrong in it."""
    with contextlib.closing(browser.new_context(viewport={"width": 1280, "height": 900})) as context:
        opened = tab(context)
        yield opened
        assert opened.problems == []


def test_a_visitor_moves_a_slider_and_reads_streamed_answers_with_the_keyboard_alone(
    page: Any, address: str
) -> None:
    page.goto(address)
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("User message", exact=True).fill("Name the capital of France.")
    page.get_by_label("New tokens of an answer").fill("6")
    page.get_by_label("Style vector").select_option("a direction")
    moved = page.locator("#words .token")
    page.get_by_text("After style").wait_for()
    assert "Name" in page.locator("#panel .tokens").first.inner_text()
    digest = page.locator("#panel code").first.inner_text()
    slider = page.get_by_label("alpha, the strength")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    playwright_api.expect(page.locator("output[for=alpha]")).to_have_text("1.3")
    playwright_api.expect(page.locator("#python")).to_contain_text("alpha=1.3", timeout=WAIT)
    assert page.locator("#panel code").first.inner_text() != digest
    assert "alpha=1.3" in page.url
    page.locator("#words:not([hx-post])").wait_for()
    assert re.search(
        r"far-[1-5]", str(moved.evaluate_all("all => all.map(each => each.className).join(' ')"))
    )
    ask(page, lambda: page.keyboard.press("Control+Enter"))
    assert "Paris" in shown_answer(page, "text")
    assert shown_answer(page, "moved")
    assert shown_answer(page, "control")
    assert re.search("same as|differs from", page.locator("[data-card=moved] .note").inner_text())
    page.reload()
    assert page.get_by_label("User message", exact=True).input_value() == "Name the capital of France."
    assert page.get_by_label("alpha, the strength").input_value() == "1.3"
    assert all(url.startswith(address) for url in page.requested)


def test_a_setting_that_cannot_be_is_explained_and_the_next_one_clears_the_message(
    page: Any, address: str
) -> None:
    page.goto(address)
    page.get_by_label("Texts to keep whatever happens, one a line").fill("absent")
    slider = page.get_by_label("ratio", exact=True)
    slider.focus()
    page.keyboard.press("End")
    message = page.locator("#message")
    playwright_api.expect(message).to_contain_text("absent", timeout=WAIT)
    assert page.locator("#panel .token").count() > 10  # what was shown before is still there
    page.get_by_label("Texts to keep whatever happens, one a line").fill("")
    playwright_api.expect(message).to_be_hidden(timeout=WAIT)
    assert [line for line in page.problems if "400" not in line] == []  # the browser notes the refusal itself
    page.problems.clear()


def test_html_in_an_answer_is_text(page: Any, materials: Materials) -> None:
    pieces = [{"choices": [{"index": 0, "text": part, "finish_reason": None}]} for part in HOSTILE.split(" ")]
    last = {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    with (
        FakeVLLM(lambda request: events(*pieces, last)) as server,
        served(materials, EngineChoice("vllm", server.url)) as address,
    ):
        page.goto(f"{address}/?system=<b>x</b>&user=<i>y</i>")
        ask(page)
        assert shown_answer(page, "text") == HOSTILE.replace(" ", "")
        assert page.locator("#answers img, #answers b, #answers script, .tokens b, .tokens i").count() == 0
        assert page.title() == "embedspace playground"


def test_an_engine_that_is_not_there_is_told_in_plain_words(page: Any, materials: Materials) -> None:
    with served(materials, EngineChoice("vllm", "http://127.0.0.1:9")) as address:
        page.goto(address)
        ask(page)
        assert "http://127.0.0.1:9" in shown_answer(page, "text")
        assert "Traceback" not in shown_answer(page, "text")


def test_two_tabs_at_once_are_both_answered_and_a_third_s_sliders_move(
    browser: Browser, address: str
) -> None:
    with contextlib.closing(browser.new_context()) as context:
        tabs = [tab(context) for _ in range(3)]
        for each in tabs:
            each.goto(f"{address}/?user=Say+hello.&max_tokens=4&noise=0.1")
        for each in tabs[:2]:
            each.locator("#ask").click()
        tabs[2].get_by_label("norm, in radii of the vocabulary").fill("0.5")
        playwright_api.expect(tabs[2].locator("#python")).to_contain_text("scale=0.5", timeout=WAIT)
        for each in tabs[:2]:
            each.locator("[data-card=control] .note", has_text="plain text").wait_for()
            assert shown_answer(each, "text")


def test_a_stopped_and_a_closed_tab_end_their_answers(browser: Browser, address: str) -> None:
    with contextlib.closing(browser.new_context()) as context:
        stopped, closed = tab(context), tab(context)
        for each in (stopped, closed):
            each.goto(f"{address}/?user=Write+a+long+story.&max_tokens=256&noise=0.1")
        stopped.locator("#ask").click()
        stopped.locator("[data-card=text] .note", has_text="writing").wait_for()
        stopped.keyboard.press("Escape")
        playwright_api.expect(stopped.locator("[data-card=text] .note")).to_have_text("stopped")
        require_no_answer_is_written()
        closed.locator("#ask").click()
        closed.locator("[data-card=text] .note", has_text="writing").wait_for()
        closed.close()
        require_no_answer_is_written()


def require_no_answer_is_written() -> None:
    """Fail unless all answers end long before 256 tokens are written."""
    deadline = time.monotonic() + 20
    while writing := [
        each.name for each in threading.enumerate() if each.name.startswith("embedspace-answer")
    ]:
        assert time.monotonic() < deadline, writing
        time.sleep(0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_its_window_and_its_texts_can_be_read(
    browser: Browser, address: str, scheme: Any, width: int
) -> None:
    size: Any = {"width": width, "height": 800}
    with contextlib.closing(browser.new_context(viewport=size, color_scheme=scheme)) as context:
        opened = tab(context)
        opened.goto(f"{address}/?noise=0.5&ratio=2")
        opened.locator("#words:not([hx-post])").wait_for()
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        low = opened.evaluate(CONTRASTS)
        assert low == []


CONTRASTS = """() => {
  const number = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (part) => part / 255 <= .03928 ? part / 255 / 12.92 : ((part / 255 + .055) / 1.055) ** 2.4;
  const light = (colour) => colour.slice(0, 3).map(linear)
    .reduce((sum, each, place) => sum + each * [.2126, .7152, .0722][place], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = number(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = "p, label, legend, h1, h2, h3, li.token:not(.dropped), button:enabled, code, th, td, .note";
  for (const element of document.querySelectorAll(texts)) {
    if (!element.textContent.trim() || !element.checkVisibility()) continue;
    const [high, low] = [light(number(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    if ((high + .05) / (low + .05) < 4.5) found.push(element.className + ": " + element.textContent.slice(0, 30));
  }
  return found;
}"""
"""Texts whose contrast to what is behind them is below 4.5 to 1 (WCAG 2.2, AA)."""
