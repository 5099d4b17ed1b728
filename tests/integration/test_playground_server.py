"""The playground's command before a real vLLM server, visited in a real browser."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from embedspace import EmbeddingSpace, StyleVector
from embedspace.engines import Sampling, VLLMClient, VLLMServer
from tests.playground_visits import CHROMIUM, WAIT, ask, chromium, shown_answer, tab

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="the browser's driver is not installed: pip install playwright"
)
CARDS = ("text", "moved", "control")
QUESTION = "What is the capital of France?"
MINUTES = 300
"""Seconds, long enough for a busy machine."""

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine to open the page with"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@contextlib.contextmanager
def visit(browser: Browser, url: str, *words: str) -> Iterator[Any]:
    """A tab at the page of ``embedspace playground --url ...``; its ``address`` is that of the page.

    Afterwards Ctrl-C ends the command at once and without an error, whatever it was about to compute.
    """
    command = [sys.executable, "-m", "embedspace", "playground", "--url", url, "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            addresses = (re.search(r"playground at (http://\S+)/ ", line) for line in process.stdout)
            address = next(filter(None, addresses))[1]
            with contextlib.closing(browser.new_context()) as context:
                page = tab(context)
                page.address = address
                yield page
                assert not page.problems, page.problems
                assert all(asked.startswith(address) for asked in page.requested)
        finally:
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate()
    assert process.returncode == 0
    assert not re.search("Traceback|ERROR|terminate", printed), printed


def measured(url: str, name: str, label: str = "") -> float:
    """A number of the server's own metrics."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=MINUTES) as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{") and label in line
    )


def test_text_moved_and_control_answers_are_streamed_from_the_server(
    browser: Browser, vllm_server: VLLMServer, vllm_client: VLLMClient, smollm2: EmbeddingSpace
) -> None:
    conversation = [{"role": "user", "content": QUESTION}]
    style = StyleVector.from_pretrained("cheerful", smollm2)
    prompts = [smollm2.chat_ids(conversation), style.apply(smollm2.embed_chat(conversation), alpha=1.5)]
    expected = [answer.text for answer in vllm_client.generate(prompts, Sampling(max_tokens=24))]
    with visit(browser, vllm_server.url) as page:
        page.goto(page.address)
        assert vllm_server.url in page.locator("header").inner_text()
        page.get_by_label("User message", exact=True).fill(QUESTION)
        page.get_by_label("New tokens of an answer").fill("24")
        page.get_by_label("Style vector").select_option("cheerful")
        page.get_by_label("alpha, the strength").fill("1.5")
        playwright_api.expect(page.locator("#python")).to_contain_text("alpha=1.5", timeout=WAIT)
        assert f"VLLMClient('{vllm_server.url}'" in page.locator("#python").inner_text()
        page.evaluate(NOTE_LENGTHS)
        ask(page)
        assert [shown_answer(page, card) for card in ("text", "moved")] == expected
        assert "Paris" in expected[0]
        assert shown_answer(page, "control")
        for card in CARDS:
            lengths = page.evaluate("card => window.lengths[card]", card)
            assert len(set(lengths)) > 3, f"{card} did not come piece by piece: {lengths}"
            assert lengths == sorted(lengths)


NOTE_LENGTHS = """() => {
  window.lengths = {};
  for (const card of document.querySelectorAll("[data-card]")) {
    const answer = card.querySelector(".answer"), lengths = window.lengths[card.dataset.card] = [];
    const note = () => { if (card.dataset.begun) lengths.push(answer.textContent.length); };
    new MutationObserver(note).observe(answer, { childList: true, characterData: true });
  }
}"""
"""Notes the length of each answer whenever it changes."""


def test_the_stop_button_ends_the_generation_in_the_server(browser: Browser, vllm_server: VLLMServer) -> None:
    written = measured(vllm_server.url, "generation_tokens_total")
    with visit(browser, vllm_server.url) as page:
        page.goto(f"{page.address}/?user=Write+a+long+story.&max_tokens=256&noise=0.1")
        page.locator("#ask").click()
        for card in CARDS:
            page.locator(f"[data-card={card}] .note", has_text="writing").wait_for()
        assert measured(vllm_server.url, "num_requests_running") == len(CARDS)
        page.locator("#stop").click()
        for card in CARDS:
            playwright_api.expect(page.locator(f"[data-card={card}] .note")).to_have_text("stopped")
            assert shown_answer(page, card)
        deadline = time.monotonic() + MINUTES
        while measured(vllm_server.url, "num_requests_running"):
            assert time.monotonic() < deadline, "the server goes on writing"
            time.sleep(0.1)
        assert measured(vllm_server.url, "generation_tokens_total") - written < len(CARDS) * 256
        ask(page)
        assert page.locator("[data-card=text] .note").inner_text() == ""


def test_a_server_that_is_killed_while_it_writes_is_told_in_plain_words(
    browser: Browser, tmp_path: Path
) -> None:
    with (
        VLLMServer("smollm2-135m-instruct", log_path=tmp_path / "log") as server,
        visit(browser, server.url) as page,
    ):
        page.goto(f"{page.address}/?user=Write+a+long+story.&max_tokens=256&noise=0.1")
        page.locator("#ask").click()
        page.locator("[data-card=text] .note", has_text="writing").wait_for()
        require_process(server).kill()
        page.locator("#answers[aria-busy=false]").wait_for()
        for _ in range(2):  # the broken stream, and a question to a server that is gone
            for card in CARDS:
                assert server.url in shown_answer(page, card)
                assert "Traceback" not in shown_answer(page, card)
                assert page.locator(f"[data-card={card}] .note").inner_text() == "no answer"
            ask(page)


def require_process(server: VLLMServer) -> psutil.Process:
    """The process that answers at the server's address."""
    port = server.url.rpartition(":")[2]
    (found,) = (
        child
        for child in psutil.Process().children(recursive=True)
        if child.cmdline()[1:4] == ["-P", "-m", "vllm.entrypoints.openai.api_server"]
        and port in child.cmdline()
    )
    return found
