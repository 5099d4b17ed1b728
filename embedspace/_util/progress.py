"""Progress of long work: a bar in a terminal, a line every ten seconds anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal."""
FORECAST_SECONDS = 5.0
"""Shortest time after which the first items say how long all of them take."""
PAUSE_SECONDS = 0.3
"""Between two items: those before it were one batch, or several."""

Advance = Callable[..., None]
"""Counts one more finished item, or as many as it is given."""


@contextmanager
def progress(title: str, total: int, done: int = 0, *, shown: bool = True) -> Iterator[Advance]:
    """Show progress over ``total`` items on stderr; the block calls the yielded function after each item,
    or with their number after several.

    Where the work is long, the first items say once how long all of it will take.

    Args:
        title: name of the work.
        total: number of items.
        done: how many of them were done before; they do not count for the rate.
        shown: false to show nothing.
    """
    if not shown:
        yield lambda items=1: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with _bar(console, title, total, done) if console.is_terminal else _lines(title, total, done) as advance:
        yield advance


@contextmanager
def loading() -> Iterator[None]:
    """In this block transformers shows bars of loaded weights in a terminal only, where they do not fill a log."""
    from transformers.utils import logging

    if sys.stderr.isatty() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


@contextmanager
def _bar(console: Console, title: str, total: int, done: int) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, completed=done, pace="")
        count = _Count(total, done)

        def advance(items: int = 1) -> None:
            forecast = count.advance(items)
            bar.update(task, advance=items, pace=count.pace())
            if forecast:
                bar.console.print(f"{title}: {forecast}", highlight=False)

        yield advance


@contextmanager
def _lines(title: str, total: int, done: int) -> Iterator[Advance]:
    count, finished = _Count(total, done), threading.Event()

    def show() -> None:
        # stderr is looked up each time: it may be replaced while the thread runs.
        print(f"{title}: {count.done} of {total} {count.pace()}".rstrip(), file=sys.stderr, flush=True)

    def repeat() -> None:
        while not finished.wait(LINE_SECONDS):
            show()

    def advance(items: int = 1) -> None:
        if forecast := count.advance(items):
            print(f"{title}: {forecast}", file=sys.stderr, flush=True)

    show()
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        finished.set()
        thread.join()
        show()


class _Count:
    """Items done, and the pace since the start."""

    def __init__(self, total: int, done: int) -> None:
        self.total = total
        self.done = done
        self._before = done
        self._started = self._latest = self._first = time.monotonic()
        self._forecast = False

    def advance(self, items: int = 1) -> str:
        """Count more items; says once, as text, how long all will take, and else nothing.

        Items of a batch come together, so a pause after an item shows how long those before it took. A steady stream
        of items is judged after a longer time.
        """
        now, before = time.monotonic(), self._latest
        new, spent = self.done - self._before, before - self._started
        paused = new > 0 and now - before > PAUSE_SECONDS and spent > FORECAST_SECONDS
        self._latest = now
        self.done += items
        if not new:
            self._first = now
        if self._forecast or not (paused or now - self._first > 3 * FORECAST_SECONDS):
            return ""
        self._forecast = True
        left = spent / new * (self.total - self._before - new) - (now - before)
        return f"about {_duration(max(left, 0.0))} more, judging by the first {new if new > 1 else 'one'}"

    def pace(self) -> str:
        """Rate and time left, as text; empty before the first item."""
        new = self.done - self._before
        if not new:
            return ""
        rate = new / max(time.monotonic() - self._started, 1e-9)
        left = (self.total - self.done) / rate
        return f"{rate:.{1 if rate >= 1 else 3}f}/s" + (
            f", about {_duration(left)} left" if self.done < self.total else ""
        )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min" if whole < 6000 else f"{whole / 3600:.1f} h"
