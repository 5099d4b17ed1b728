"""A playground that is served, and a browser that visits it."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from embedspace.playground.app import Playground
from embedspace.playground.engines import EngineChoice
from embedspace.playground.materials import Materials
from embedspace.playground.protection import loopback_hosts
from embedspace.playground.server import listener, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT = 120_000
"""Milliseconds, long enough for a busy machine."""


@contextlib.contextmanager
def served(materials: Materials, choice: EngineChoice) -> Iterator[str]:
    """Address of a playground that runs in a thread, with the settings of the command."""
    with listener("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        server = uvicorn.Server(settings(Playground(materials, choice, loopback_hosts(port)).app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none."""
    playwright_api = pytest.importorskip(
        "playwright.sync_api", reason="the browser's driver is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine to open the page with")
    with playwright_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def tab(context: Any) -> Any:
    opened = context.new_page()
    opened.set_default_timeout(WAIT)
    opened.requested, opened.problems = [], []
    opened.on("request", lambda request: opened.requested.append(request.url))
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("console", lambda line: is_problem(line) and opened.problems.append(line.text))
    return opened


def is_problem(line: Any) -> bool:
    """Whether the console's line is an error; htmx writes one as well where the page itself ends an old request."""
    return line.type == "error" and not line.text.startswith(("htmx:sendAbort", "htmx:afterRequest"))


def shown_answer(page: Any, card: str) -> str:
    return str(page.locator(f"[data-card={card}] .answer").inner_text())


def ask(page: Any, how: Callable[[], None] | None = None) -> None:
    """Ask with the button, or otherwise, and wait for the end of all answers."""
    with page.expect_response(lambda response: response.url.endswith("/answers")):
        (how or page.locator("#ask").click)()
    page.locator("#answers[aria-busy=false]").wait_for()
