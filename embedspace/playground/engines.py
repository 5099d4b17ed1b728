"""EngineChoice: who answers, opened at the first question and closed with the page."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

from embedspace.engines import Sampling

if TYPE_CHECKING:
    from embedspace.engines import Prompt
    from embedspace.playground.view import View
    from embedspace.space import EmbeddingSpace

EngineName = Literal["transformers", "vllm"]


class StreamingEngine(Protocol):
    """An engine that gives the text of one completion piece by piece."""

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[str]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class EngineChoice:
    """A kind of engine, and the address of its server where it has one.

    >>> EngineChoice("vllm", "http://127.0.0.1:8000").described
    'the vLLM server at http://127.0.0.1:8000'

    Raises:
        ValueError: vllm without an address, what is no address, or one for an engine in this process.
    """

    name: EngineName = "transformers"
    url: str | None = None

    def __post_init__(self) -> None:
        if self.name == "vllm" and not self.url:
            raise ValueError("--engine vllm needs the server's address: --url http://127.0.0.1:8000")
        if self.name == "transformers" and self.url:
            raise ValueError(
                f"--url {self.url} needs --engine vllm; the engine transformers runs in this process"
            )
        if self.url and urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"--url is {self.url!r}; it must be an address such as http://127.0.0.1:8000")

    @classmethod
    def of(cls, name: EngineName | None, url: str | None) -> EngineChoice:
        """The engine that the command's words name; an address alone is that of a vLLM server.

        >>> EngineChoice.of(None, "http://127.0.0.1:8000").name
        'vllm'

        Raises:
            ValueError: as the class.
        """
        return cls(name or ("vllm" if url else "transformers"), url)

    @property
    def described(self) -> str:
        """For the page."""
        return "the model in this process" if self.url is None else f"the vLLM server at {self.url}"

    @property
    def imports(self) -> str:
        """Import line of a program that asks it."""
        return f"from embedspace.engines import Sampling, {'TransformersEngine' if self.url is None else 'VLLMClient'}"

    def code(self, view: View) -> list[str]:
        """Lines of a program that asks it about ``prompt``."""
        made = (
            "TransformersEngine(space)"
            if self.url is None
            else f"VLLMClient({self.url!r}, hidden_size=space.hidden_size)"
        )
        return [
            f"engine = {made}",
            f"print(next(engine.generate([prompt], Sampling(max_tokens={view.max_tokens}))).text)",
        ]

    @property
    def override(self) -> str:
        """Hydra overrides of an experiment that asks it."""
        return "engine=transformers" if self.url is None else f"engine=vllm engine.url={self.url}"

    def open(self, space: EmbeddingSpace) -> StreamingEngine:
        """Load the model, or connect to the server.

        Raises:
            ValueError, EngineError: as the engines.
        """
        if self.url is None:
            from embedspace.engines import TransformersEngine

            return TransformersEngine(space)
        from embedspace.engines import VLLMClient

        return VLLMClient(self.url, hidden_size=space.hidden_size, max_retries=1, patience=5.0)


class OpenEngine:
    """The engine of a page: opened by the first question, used by all tabs."""

    def __init__(self, choice: EngineChoice, space: EmbeddingSpace) -> None:
        self.choice = choice
        self._space = space
        self._lock = threading.Lock()
        self.is_open = False
        """Whether the next question is answered without loading anything."""

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[str]:
        """Text of one completion, piece by piece.

        Raises:
            ValueError, EngineError: as the engines.
        """
        with self._lock:  # a second tab waits until the first has loaded the model
            engine = self._engine
            self.is_open = True
        return engine.stream(prompt, sampling)

    @cached_property
    def _engine(self) -> StreamingEngine:
        return self.choice.open(self._space)

    def close(self) -> None:
        """Release what was opened."""
        with self._lock:
            if self.is_open:
                self._engine.close()
