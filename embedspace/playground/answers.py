"""Answers of a view: plain text, moved and control, written at the same time where the engine can."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from embedspace.engines import Sampling
from embedspace.errors import EngineError

if TYPE_CHECKING:
    from embedspace.engines import Prompt
    from embedspace.playground.engines import OpenEngine

Kind = Literal["piece", "done", "error", "status"]


@dataclass(frozen=True)
class AnswerEvent:
    """Something that happened to one of the answers."""

    card: str
    kind: Kind
    text: str = ""


class BusyError(RuntimeError):
    """As many tabs as allowed wait for answers already."""


class AnswerDesk:
    """Lets a bounded number of tabs ask, and as many answers be written at once as the engine can write.

    Args:
        engine: who answers.
        tabs: that may ask at the same time.
        streams: answers that are written at the same time.
    """

    def __init__(self, engine: OpenEngine, *, tabs: int, streams: int) -> None:
        self._engine = engine
        self._tabs = tabs
        self._asking = 0
        self._slots = asyncio.Semaphore(streams)

    def admit(self) -> None:
        """Count one more tab; :meth:`release` counts it out again.

        Raises:
            BusyError: there are enough.
        """
        if self._asking >= self._tabs:
            raise BusyError(
                f"{self._tabs} tabs are waiting for answers already; stop one of them, or try again when one has ended"
            )
        self._asking += 1

    def release(self) -> None:
        """Count an admitted tab out, whether its answers were written or not."""
        self._asking -= 1

    async def write(
        self, prompts: Mapping[str, Prompt], sampling: Sampling
    ) -> AsyncGenerator[AnswerEvent, None]:
        """The events of all answers of an admitted tab, as they come; leaving the iterator stops the generation."""
        events: asyncio.Queue[AnswerEvent] = asyncio.Queue()
        stopped = threading.Event()
        tasks = [
            asyncio.create_task(self._write_one(card, prompt, sampling, events, stopped))
            for card, prompt in prompts.items()
        ]
        try:
            if not self._engine.is_open:
                yield AnswerEvent("", "status", f"Opening {self._engine.choice.described} …")
            left = len(tasks)
            while left:
                event = await events.get()
                left -= event.kind in ("done", "error")
                yield event
        finally:
            stopped.set()
            for task in tasks:
                task.cancel()

    async def _write_one(
        self,
        card: str,
        prompt: Prompt,
        sampling: Sampling,
        events: asyncio.Queue[AnswerEvent],
        stopped: threading.Event,
    ) -> None:
        """Wait for a slot and write one answer in a thread; the slot is free again when the thread has ended."""
        await self._slots.acquire()
        loop = asyncio.get_running_loop()

        def tell(what: Callable[..., None], *given: object) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended, and its loop is closed
                loop.call_soon_threadsafe(what, *given)

        def put(kind: Kind, text: str = "") -> None:
            tell(events.put_nowait, AnswerEvent(card, kind, text))

        def run() -> None:
            try:
                pieces = self._engine.stream(prompt, sampling)
                for piece in pieces:
                    if stopped.is_set():
                        break
                    put("piece", piece)
                pieces.close()  # type: ignore[attr-defined]
                put("done")
            except (ValueError, EngineError, OSError) as error:
                put("error", str(error))
            except Exception as error:
                put("error", f"The engine failed: {type(error).__name__}: {error}")
            finally:
                tell(self._slots.release)

        if stopped.is_set():
            self._slots.release()
            return
        threading.Thread(target=run, name=f"embedspace-answer-{card}", daemon=True).start()
