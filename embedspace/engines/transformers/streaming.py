"""The tokens of one completion as they are generated, in a thread of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from embedspace.engines.base import Completion

if TYPE_CHECKING:
    from torch import Tensor

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What the first bytes of a character are decoded to until its last ones are there."""


class TokenFeed:
    """A stopping criterion that hands on the new tokens after each step, and ends the generation where nobody reads."""

    def __init__(self) -> None:
        self._steps: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self._steps.put(input_ids[0].tolist())
        return torch.tensor([self._stopped.is_set()] * len(input_ids), device=input_ids.device)

    def pieces(
        self, complete: Callable[[], Completion], decode: Callable[[list[int]], str], stop: Sequence[str]
    ) -> Iterator[str]:
        """The text of a completion as it grows; the pieces together are the completion's text.

        Args:
            complete: runs the generation with this criterion.
            decode: from the tokens so far, those of the prompt included where the model repeats them, to new text.
            stop: strings that end the completion; the beginning of one is held back.

        Raises:
            Exception: whatever ``complete`` raises.
        """
        result: list[Completion | BaseException] = []

        def run() -> None:
            try:
                result.append(complete())
            except BaseException as error:
                result.append(error)
            finally:
                self._steps.put(None)

        thread = threading.Thread(target=run, name="embedspace-stream", daemon=True)
        thread.start()
        sent = ""
        held = max(map(len, stop), default=1) - 1
        try:
            while (tokens := self._steps.get()) is not None:
                text = decode(tokens).rstrip(_UNFINISHED)
                if any(each in text for each in stop):
                    continue
                text = text[: len(text) - held]
                if len(text) > len(sent) and text.startswith(sent):
                    yield text[len(sent) :]
                    sent = text
        finally:
            self._stopped.set()
            thread.join()
        (end,) = result
        if isinstance(end, BaseException):
            raise end
        if rest := end.text[len(sent) :]:
            yield rest
