"""A client for vLLM servers: prompts go out as embeddings, several a request, and come back in order."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Self

import torch

from embedspace._util.background_loop import BackgroundLoop
from embedspace._util.forks import lock_across_forks
from embedspace.engines.base import Completion, Prompt, Sampling, require_one_completion, warn_of_failure
from embedspace.engines.batching import Batch, batches, check_prompt, require_prompts
from embedspace.engines.guard import Guard, conversation_refusal, guarded
from embedspace.engines.vllm.pool import ServerPool
from embedspace.engines.vllm.protocol import (
    ChatRequest,
    CompletionRequest,
    embedded_parts,
    require_conversations,
    server_variables,
)
from embedspace.engines.vllm.transport import Connection, ServerInfo
from embedspace.errors import EngineError, EngineResponseError, PromptRefusedError, PromptRejectedError
from embedspace.prompt import PromptEmbeds, encode_prompt_embeds, preflight

if TYPE_CHECKING:
    from embedspace.space import Message

_NAME = "embedspace-vllm-client"
_RESTARTING = lock_across_forks()
_MAX_REQUEST_BYTES = 32 * 2**20  # of vectors; together with max_concurrency it bounds the client's memory


class VLLMClient:
    """Generates on vLLM servers that were started with ``--enable-prompt-embeds``.

    In a forked process, such as a worker of PyTorch's DataLoader, the client starts anew with connections of its own;
    completions that were asked for before the fork arrive in the parent alone.

    Prompts are read as they are needed and completions come in prompt order. A prompt that fails its check, or that
    the server refuses, fails alone. Requests that meet 429, 5xx, a lost connection or an answer that is no
    completion are sent again, after growing pauses, to whichever server is up; what still fails then raises an
    :class:`~embedspace.errors.EngineError` that names the server, the prompts and the answer.

    Args:
        url: the server's address, e.g. ``http://127.0.0.1:8000``, or a list of them: all serve the same model.
        model: the name it is served under; by default the only one there is.
        api_key: sent to the server and shown nowhere; by default ``$VLLM_API_KEY``.
        hidden_size: where given, prompts of another one are refused before they are sent.
        timeout: seconds without an answer after which a request counts as lost and is sent again.
        max_retries: how often one request is sent again.
        patience: seconds for which requests wait while every server is down; at the start all must be up.
        prompts_per_request: most prompts in one request.
        max_concurrency: most requests in flight at each server.
        dtype: of the embeddings on the wire; by default each prompt's own.
        guard: screens embeddings before they are sent, such as a :class:`~embedspace.SafetyFilter`; a prompt that it
            refuses fails alone. Token ids and text are not screened.

    Raises:
        ValueError: an address is malformed or given twice, there are none, or a number is out of its range.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        model: str | None = None,
        *,
        api_key: str | None = None,
        hidden_size: int | None = None,
        timeout: float = 600.0,
        max_retries: int = 3,
        patience: float = 300.0,
        prompts_per_request: int = 16,
        max_concurrency: int = 4,
        dtype: torch.dtype | None = None,
        guard: Guard | None = None,
    ) -> None:
        if prompts_per_request < 1 or max_concurrency < 1:
            raise ValueError(
                "prompts_per_request and max_concurrency must be at least 1, "
                f"got {prompts_per_request} and {max_concurrency}"
            )
        api_key = os.environ.get("VLLM_API_KEY") if api_key is None else api_key
        urls = [url] if isinstance(url, str) else list(url)

        def make_pool() -> ServerPool:
            connections = [Connection(address, api_key=api_key, timeout=timeout) for address in urls]
            return ServerPool(connections, slots=max_concurrency, max_retries=max_retries, patience=patience)

        self._make_pool = make_pool
        self._pool = make_pool()
        # Twice as many requests are prepared as are in flight: one slow request leaves no slot idle.
        self._window = 2 * max_concurrency * len(urls)
        self._model = model
        self._hidden_size = hidden_size
        self._prompts_per_request = prompts_per_request
        self._dtype = dtype
        self._guard = guard
        self._info: ServerInfo | None = None
        self._loop = BackgroundLoop(_NAME)
        self._closed = False

    def __repr__(self) -> str:
        return f"VLLMClient({self._pool.url!r}, {self._model!r})"

    @property
    def info(self) -> ServerInfo:
        """What the servers report about themselves, requested once; of several, ``url`` lists all.

        Raises:
            EngineError: one cannot be reached, serves several models and none was named, or differs from the others.
        """
        loop = self._open_loop()
        if self._info is None:
            self._info = loop.run(self._pool.info(self._model))
        return self._info

    @property
    def retries(self) -> Mapping[str, int]:
        """How many requests were sent again so far, by the failure before: ``429``, ``broken off``, ..."""
        return dict(self._pool.retries)

    def check(self, hidden_size: int | None = None) -> ServerInfo:
        """Ask every server again what it serves and, where a hidden size is given, whether it takes embeddings.

        Raises:
            EngineError: as :attr:`info`; it was started without the flag, or its model has another hidden size.
        """
        self._info = None
        hidden_size = self._hidden_size if hidden_size is None else hidden_size
        if hidden_size is not None:
            row = encode_prompt_embeds(torch.zeros(1, hidden_size), self._dtype)
            body = {"model": self.info.model, "max_tokens": 1, "prompt_embeds": [row]}
            probe = ("/v1/completions", body, "one row as a probe", itemgetter("choices"))
            # A gateway's filter that refuses a row of zeros has accepted its format.
            with suppress(PromptRefusedError):
                self._open_loop().run(self._pool.each(lambda connection: connection.post(*probe)))
        return self.info

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Completions in prompt order, ``n`` for each prompt; abandoning the iterator cancels what is in flight.

        The first prompt that failed warns, since its text is empty.

        Raises:
            TypeError: something is neither a PromptEmbeds nor token ids.
            EngineError: the server failed.
        """
        return warn_of_failure(self._generate(require_prompts(prompts), sampling))

    def _generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        info = self.info

        async def complete(batch: Batch) -> list[Completion]:
            request = CompletionRequest(info.model, batch.prompts, sampling, self._dtype)
            return batch.in_order(await self._complete(request) if batch.prompts else [])

        work = batches(
            prompts,
            self._prompts_per_request,
            hidden_size=self._hidden_size,
            max_rows=_max_rows(info),
            max_bytes=_MAX_REQUEST_BYTES,
        )
        if (guard := self._guard) is not None:
            work = (guarded(batch, guard) for batch in work)
        for completions in self._open_loop().map_in_order(complete, work, self._window):
            yield from completions

    def generate_chat(
        self,
        conversations: Iterable[Sequence[Message]],
        sampling: Sampling,
        *,
        template: Mapping[str, object] | None = None,
    ) -> Iterator[Completion]:
        """Completions of conversations that the server templates, as :meth:`generate`; one for each request.

        A message's content is text, a PromptEmbeds made by ``space.embed``, a SoftPrompt, or a list of those. vLLM
        joins the parts of a list with line breaks where the model's template takes text alone, as most do.

        A content may be None beside tool calls.

        Args:
            conversations: read as they are needed.
            sampling: how to generate.
            template: variables of the server's chat template, such as ``{"enable_thinking": False}``. A name that the
                template does not read is ignored by the server; ``space.embed_chat(..., template=)`` refuses it.

        Raises:
            TypeError: a content is something else, a conversation is not a list of messages, or a variable that JSON
                cannot hold.
            ValueError: a PromptEmbeds has template rows, which the server would put around it once more; or a variable
                that only ``embed_chat`` takes.
            EngineError: the server failed.
        """
        variables = server_variables(template)
        return warn_of_failure(self._generate_chat(require_conversations(conversations), sampling, variables))

    def _generate_chat(
        self, conversations: Iterable[Sequence[Message]], sampling: Sampling, template: Mapping[str, object]
    ) -> Iterator[Completion]:
        info = self.info

        async def complete(numbered: tuple[int, tuple[Sequence[Message], str | None]]) -> list[Completion]:
            position, (messages, problem) = numbered
            if problem is not None:
                return [Completion.failed(position, problem)]
            try:
                return await self._pool.send(
                    ChatRequest(info.model, position, messages, sampling, self._dtype, template)
                )
            except (PromptRejectedError, ValueError) as error:
                return [Completion.failed(position, str(error))]

        work = ((messages, self._chat_problem(info, messages)) for messages in conversations)
        for completions in self._open_loop().map_in_order(complete, enumerate(work), self._window):
            yield from completions

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[str]:
        """The text of one completion, piece by piece as the server generates it.

        Raises:
            ValueError: ``sampling.n`` is not 1, or the prompt fails its check.
            PromptRefusedError: the guard refused the prompt.
            EngineError: the server failed, refused the prompt, or the stream ended before the completion did.
        """
        require_one_completion(sampling)
        info = self.info
        prompt = check_prompt(prompt, hidden_size=self._hidden_size, max_rows=_max_rows(info))
        if refusal := self._refusal([prompt] if isinstance(prompt, PromptEmbeds) else []):
            raise PromptRefusedError(refusal)
        request = CompletionRequest(info.model, ((0, prompt),), sampling, self._dtype)
        yield from self._open_loop().iterate(self._stream(info, request))

    def describe(self) -> dict[str, str]:
        """Kind, address, model, dtype on the wire, and versions, for records."""
        return {
            "engine": "vllm",
            "url": self.info.url,
            "model": self.info.model,
            "dtype": "the prompt's own" if self._dtype is None else str(self._dtype).removeprefix("torch."),
            "vllm": self.info.version,
            "openai": importlib.metadata.version("openai"),
        }

    def close(self) -> None:
        """Cancel what is in flight and close all connections; harmless when repeated, and for a parent process."""
        closed, self._closed = self._closed, True
        if not closed and not self._loop.inherited:
            self._loop.cancel()
            self._loop.run(self._pool.close())
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refusal(self, parts: Sequence[PromptEmbeds]) -> str | None:
        return None if self._guard is None else conversation_refusal(self._guard, parts)

    def _open_loop(self) -> BackgroundLoop:
        if self._closed:
            raise EngineError(f"the client of {self._pool.url} is closed; make a new VLLMClient")
        with _RESTARTING:
            if self._loop.inherited:  # connections, tasks and thread are the parent's
                self._pool, self._info = self._make_pool(), None
                self._loop = BackgroundLoop(_NAME)
        return self._loop

    def _chat_problem(self, info: ServerInfo, messages: Sequence[Message]) -> str | None:
        """Why a conversation cannot be sent, or None where it can."""
        parts = embedded_parts(messages)
        try:
            for part in parts:
                preflight(part, hidden_size=self._hidden_size, max_rows=_max_rows(info))
        except ValueError as error:
            return str(error)
        return self._refusal(parts)

    async def _complete(self, request: CompletionRequest) -> list[Completion]:
        try:
            return await self._pool.send(request)
        except (PromptRejectedError, ValueError) as error:
            if len(request.prompts) == 1:
                return [Completion.failed(request.prompts[0][0], str(error))]
        # One refused prompt refuses the whole request: halve it until that prompt is alone.
        half = len(request.prompts) // 2
        return [
            *await self._complete(replace(request, prompts=request.prompts[:half])),
            *await self._complete(replace(request, prompts=request.prompts[half:])),
        ]

    async def _stream(self, info: ServerInfo, request: CompletionRequest) -> AsyncGenerator[str, None]:
        ended = False
        async with aclosing(self._pool.stream(request)) as events:
            async for text, last in events:
                ended = ended or last
                if text:
                    yield text
        if not ended:
            raise EngineResponseError(
                f"the vLLM server at {info.url} ended its stream before the completion was complete; "
                "look into its log, it may have crashed"
            )


def _max_rows(info: ServerInfo) -> int | None:
    """Most rows of a prompt that leave room for one new token."""
    return None if info.max_model_len is None else info.max_model_len - 1
