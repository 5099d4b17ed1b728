"""The playground as a Starlette application: the page, what a moved slider changes, the verdict, and answers."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from embedspace._util.answer_card import answer_card, answer_style
from embedspace._util.package_files import package_text, template_environment
from embedspace.engines import Sampling
from embedspace.playground.answers import AnswerDesk, BusyError
from embedspace.playground.applied import Workbench
from embedspace.playground.engines import EngineChoice, OpenEngine
from embedspace.playground.panel import make_panel, nearest_words
from embedspace.playground.protection import Protected
from embedspace.playground.view import LIMITS, RANGES, View
from embedspace.prompt import strip_style

if TYPE_CHECKING:
    import jinja2
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from embedspace.engines import Prompt
    from embedspace.playground.materials import Materials

T = TypeVar("T")

STATIC = {
    "playground.css": "text/css",
    "token_strip.css": "text/css",
    "answer_card.css": "text/css",
    "playground.js": "text/javascript",
    "htmx.min.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""Files of the page and their types."""
_SETTINGS = len(View.__dataclass_fields__)


class Playground:
    """One page for any number of tabs of this machine.

    Args:
        materials: the space, and what views may name.
        choice: who answers.
        hosts: Host headers that are answered; all others are refused.
    """

    def __init__(self, materials: Materials, choice: EngineChoice, hosts: Iterable[str]) -> None:
        self.bench = Workbench(materials)
        self.engine = OpenEngine(choice, materials.space)
        self._hosts = frozenset(hosts)
        self._desk = AnswerDesk(
            self.engine,
            tabs=LIMITS.concurrent_answers,
            streams=1 if choice.url is None else LIMITS.parallel_streams,
        )
        self._views = anyio.CapacityLimiter(2)
        self._verdicts = anyio.CapacityLimiter(1)

    @cached_property
    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/view", self.view, methods=["POST"]),
            Route("/words", self.words, methods=["POST"]),
            Route("/verdict", self.verdict, methods=["POST"]),
            Route("/answers", self.answers, methods=["POST"]),
            Route("/static/{name}", self.static),
        ]
        return Protected(Starlette(routes=routes, lifespan=self._lifespan), self._hosts, LIMITS.body_bytes)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        threading.Thread(target=self.warm_up, name="embedspace-warm-up", daemon=True).start()
        yield
        self.engine.close()

    def warm_up(self) -> None:
        """Compute what the first moved slider and the first verdict would wait for."""
        view = View(noise=0.1)
        make_panel(self.bench, view, self.engine.choice)
        nearest_words(self.bench, view)
        if self.bench.materials.guard is not None:
            self.bench.materials.guard.explain(self.bench.apply(View()).base)

    async def page(self, request: Request) -> Response:
        """The whole page of the view that the address describes; of the default view where it describes none."""
        error = ""
        try:
            view = View.parse(_pairs(request.scope["query_string"]))
            panel = await self._in_thread(lambda: make_panel(self.bench, view, self.engine.choice))
        except ValueError as problem:
            error, view, panel = str(problem), View(), None
        materials = self.bench.materials
        html = _template("page.html.j2").render(
            view=view,
            panel=panel,
            error=error,
            space=materials.space,
            styles=list(materials.styles),
            softs=list(materials.softs),
            engine=self.engine.choice,
            ranges=RANGES,
            limits=LIMITS,
            fragment=False,
        )
        return HTMLResponse(html, 400 if error else 200)

    async def view(self, request: Request) -> Response:
        """What a moved slider changes: strips, numbers, programs."""

        def render(view: View) -> str:
            panel = make_panel(self.bench, view, self.engine.choice)
            return _template("panel.html.j2").render(panel=panel, error="", fragment=True)

        return await self._fragment(request, render, self._views)

    async def words(self, request: Request) -> Response:
        """The moved strip with the nearest word of each row."""

        def render(view: View) -> str:
            strip = nearest_words(self.bench, view)
            return _template("words.html.j2").render(panel={"moved": strip, "words_follow": False})

        return await self._fragment(request, render, self._verdicts)

    async def verdict(self, request: Request) -> Response:
        """What the safety filter says about the moved prompt, layer by layer."""
        guard = self.bench.materials.guard

        def render(view: View) -> str:
            if guard is None:
                return "<p class='hint'>No filter of this model is at hand; --filter names a saved one.</p>"
            moved = self.bench.apply(view).moved
            explained = self.bench.once((view, "verdict"), lambda: guard.explain(moved))
            return f'<div class="scroll">{explained.html()}</div>'

        return await self._fragment(request, render, self._verdicts)

    async def answers(self, request: Request) -> Response:
        """Answers as lines of JSON: which there are, then pieces of text, ends and errors."""
        try:
            view = View.parse(_pairs(await request.body()))
            prompts = await self._in_thread(lambda: self._prompts(view))
            self._desk.admit()
        except (ValueError, BusyError) as problem:
            return PlainTextResponse(str(problem), 429 if isinstance(problem, BusyError) else 400)

        async def lines() -> AsyncIterator[str]:
            events = self._desk.write(prompts, Sampling(max_tokens=view.max_tokens))
            async with contextlib.aclosing(events):
                yield json.dumps({"kind": "cards", "cards": list(prompts)}) + "\n"
                async for event in events:
                    yield json.dumps(asdict(event)) + "\n"

        return _AdmittedResponse(lines(), self._desk)

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params["name"]
        if name not in STATIC:
            return PlainTextResponse("There is no such file.", 404)
        return Response(_static(name), media_type=STATIC[name])

    def _prompts(self, view: View) -> dict[str, Prompt]:
        applied, control = self.bench.apply(view), self.bench.control(view)
        found: dict[str, Prompt] = {"text": applied.text_ids, "moved": applied.moved}
        return found if control is None else {**found, "control": control}

    async def _fragment(
        self, request: Request, render: Callable[[View], str], limiter: anyio.CapacityLimiter
    ) -> Response:
        """HTML of a view; of a view that is none the reason, in the page's line for messages."""
        try:
            view = View.parse(_pairs(await request.body()))
            return HTMLResponse(await anyio.to_thread.run_sync(lambda: render(view), limiter=limiter))
        except ValueError as problem:
            html = _template("panel.html.j2").render(panel=None, error=str(problem), fragment=True)
            return HTMLResponse(html, 400, headers={"HX-Reswap": "none"})

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._views)


class _AdmittedResponse(StreamingResponse):
    """The answers of an admitted tab, which is counted out even if it has gone before the first byte."""

    def __init__(self, lines: AsyncIterator[str], desk: AnswerDesk) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._desk.release()


def _pairs(encoded: bytes) -> Mapping[str, str]:
    """A form or query string as names and values.

    Raises:
        ValueError: it is not UTF-8, has too many fields, or names one twice.
    """
    try:
        pairs = urllib.parse.parse_qsl(
            encoded.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_SETTINGS
        )
    except ValueError as problem:
        raise ValueError(f"The settings cannot be read: {problem}") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("A setting is given twice; leave one of them out")
    return found


_environment = template_environment("embedspace.playground")
_environment.globals["answer_card"] = answer_card


def _template(name: str) -> jinja2.Template:
    return _environment.get_template(name)


def _static(name: str) -> str:
    if name == "token_strip.css":
        return strip_style()
    if name == "answer_card.css":
        return answer_style()
    return package_text("embedspace.playground", f"static/{name}")
