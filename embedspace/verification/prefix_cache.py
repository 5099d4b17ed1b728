"""The checks of the parity certificate that concern the server's prefix cache."""

from __future__ import annotations

import secrets
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from embedspace._util.progress import Advance
from embedspace.engines import Completion
from embedspace.engines.vllm.protocol import ChatRequest, CompletionRequest
from embedspace.engines.vllm.transport import ServerInfo
from embedspace.prompt import PromptEmbeds
from embedspace.verification.certificate import GREEDY, Check, compare_greedy
from embedspace.verification.prompt_form import PromptForm
from embedspace.verification.prompts import PARITY_PROMPTS
from embedspace.verification.server_requests import post, prefix_hits

_TEXT = " ".join([max(PARITY_PROMPTS, key=len)] * 3)
"""Longer than two blocks of the cache, which have 128 rows on a CPU."""
_QUESTION = " What was that about?"
_MARGIN = 64
"""Rows of the template, the question and the answer."""
_SHORT = replace(GREEDY, max_tokens=4)
"""Rows that are taken for others change the first token already."""
_WAYS = 7
CACHE_STEPS = 2 * _WAYS
"""Answers that the checks ask for at most, for progress."""


def check_prefix_cache(
    form: PromptForm, info: ServerInfo, api_key: str | None, advance: Advance
) -> Iterator[Check]:
    """Whether the cache is used, whether a salt parts it, and whether it never takes one prompt for another."""
    server = _Server(info, api_key)
    if (rows := 2 * len(form.space.tokenize(_TEXT)) + _MARGIN) > (info.max_model_len or rows):
        detail = (
            f"prompts of {rows} rows do not fit into the server's limit of {info.max_model_len}; not checked"
        )
        yield Check("prefix cache", True, detail)
        return
    yield _used_and_salted(form, server)
    requests = _requests(form, info.model)
    try:
        cold = []
        for request in requests:
            cold.append(server.ask(request, secrets.token_hex(8)))
            advance()
    except urllib.error.HTTPError as error:
        # Servers before embeddings inside of messages.
        detail = f"the server takes no embeddings inside of messages (HTTP {error.code}); not checked"
        yield Check("mixed prefix cache", error.code == 400, detail)
        return
    warm = []
    for request in requests:  # of two that the cache takes for one another, the second is wrong
        warm.append(server.ask(request, None))
        advance()
    found = compare_greedy("mixed prefix cache", cold, warm, _SHORT)
    names = f"text, its rows, other rows of its length and mixtures of them ({len(requests)} prompts)"
    yield Check(
        found.name,
        found.passed,
        f"{names}, with and without cached ones before them: {found.detail}",
        found.values,
    )


class _Server:
    def __init__(self, info: ServerInfo, api_key: str | None) -> None:
        self.info = info
        self.api_key = api_key

    def ask(self, request: ChatRequest | CompletionRequest, salt: str | None) -> Completion:
        """The greedy answer; prompts of another salt share no cached rows."""
        body: dict[str, Any] = request.body() | ({"cache_salt": salt} if salt else {})
        sent = time.monotonic()
        (completion,) = request.read(sent, post(f"{self.info.url}{request.path}", self.api_key, body))
        return completion

    def hits(self) -> float | None:
        return prefix_hits(self.info.url, self.api_key)


def _used_and_salted(form: PromptForm, server: _Server) -> Check:
    """The server's cache counters when the same embeddings are sent twice, and then under another salt."""
    (prompt,) = form.prompts([_TEXT])
    request = CompletionRequest(server.info.model, ((0, prompt),), _SHORT, None)
    first, second = secrets.token_hex(8), secrets.token_hex(8)
    server.ask(request, first)
    counts = [server.hits()]
    for salt in (first, second):
        server.ask(request, salt)
        counts.append(server.hits())
    if counts[0] is None or counts[1] is None or counts[2] is None:
        return Check("prefix cache", True, "the server does not publish its counters; not checked")
    hits, salted = int(counts[1] - counts[0]), int(counts[2] - counts[1])
    detail = (
        f"{hits} of {len(prompt)} rows came from the cache at the second request, {salted} under another salt"
    )
    if not hits:
        detail += " (the server may have been started with --no-enable-prefix-caching)"
    values = {"hit_rows": hits, "rows": len(prompt), "hit_rows_of_another_salt": salted}
    return Check("prefix cache", hits > 0 and not salted, detail, values)


def _requests(form: PromptForm, model: str) -> list[ChatRequest | CompletionRequest]:
    """A text, its rows, other rows, and mixtures of these, most of one length."""
    space = form.space
    words = space.embed(_TEXT, special_tokens=False)
    others = words.with_content(words.vectors.flip(0))
    zeros = words.with_content(torch.zeros_like(words.vectors))
    if not form.is_chat:
        ids = space.tokenize(_TEXT)
        contents: list[PromptEmbeds | list[int]] = [ids, words, others, ids[::-1], zeros, [0] * len(ids)]
        return [CompletionRequest(model, ((0, content),), _SHORT, None) for content in contents]
    # A server may hold token 0 in the place of rows.
    zero_tokens = space.tokenizer.decode([0]) * len(words)
    mixtures: list[list[str | PromptEmbeds]] = [
        [_TEXT, _QUESTION],
        [words, _QUESTION],
        [others, _QUESTION],
        [_TEXT, words],
        [words, others],
        [zeros, _QUESTION],
        [zero_tokens, _QUESTION],
    ]
    return [
        ChatRequest(model, 0, [{"role": "user", "content": content}], _SHORT, None, {})
        for content in mixtures
    ]
