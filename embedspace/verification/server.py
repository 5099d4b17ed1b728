"""The checks of the parity certificate that use a running vLLM server."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator, Sequence

import torch

from embedspace._util.progress import Advance
from embedspace.engines import Completion, VLLMClient
from embedspace.engines.vllm.transport import ServerInfo
from embedspace.errors import EngineError
from embedspace.metrics import common_prefix
from embedspace.prompt import PromptEmbeds, encode_prompt_embeds
from embedspace.space import EmbeddingSpace
from embedspace.verification.certificate import GREEDY, Check, compare_greedy, greedy_answers
from embedspace.verification.prefix_cache import CACHE_STEPS, check_prefix_cache
from embedspace.verification.prompt_form import PromptForm
from embedspace.verification.prompts import ANSWERED_PROMPTS, PARITY_PROMPTS
from embedspace.verification.server_requests import post

SERVER_STEPS = 2 * ANSWERED_PROMPTS + CACHE_STEPS
"""Answers that a server is asked for, for progress."""

MAX_MEAN_GAP = 0.1
"""Largest mean difference in nats between log-probabilities in process (float32) and at the server (bfloat16).

Measured: 0.02 for the packaged model, 0.3 or more with one of its 30 layers replaced.
"""


def check_server(
    form: PromptForm,
    url: str,
    api_key: str | None,
    prompts: Sequence[PromptEmbeds],
    ids: Sequence[list[int]],
    answers: list[Completion],
    advance: Advance,
) -> Iterator[Check]:
    """The checks, cheapest first; the greedy answers to the embeddings are added to ``answers``."""
    space = form.space
    with VLLMClient(url, api_key=api_key, hidden_size=space.hidden_size) as client:
        try:
            info = client.check()
        except EngineError as error:
            yield Check("server", False, str(error))
            return
        yield Check(
            "server", True, f"vLLM {info.version} at {info.url} serves {info.model!r} and accepts embeddings"
        )
        try:
            yield _server_tokens(form, info.url, info.model, api_key)
            yield _length_limit(space, info, api_key)
            answers += greedy_answers(client, prompts, advance)
            yield compare_greedy("server's greedy answers", answers, greedy_answers(client, ids, advance))
            yield _payload_dtype(client, prompts[0], space)
            yield from check_prefix_cache(form, info, api_key, advance)
        except (EngineError, OSError) as error:
            yield Check("server", False, f"it stopped answering: {error}")


def _server_tokens(form: PromptForm, url: str, model: str, api_key: str | None) -> Check:
    """Token ids of the server's template and tokenizer against those in process."""
    different = 0
    for text in PARITY_PROMPTS:
        body = {"model": model, **form.tokenize_request(text)}
        different += post(f"{url}/tokenize", api_key, body)["tokens"] != form.ids(text)
    detail = (
        f"{different} of {len(PARITY_PROMPTS)} prompts are templated or tokenised differently by the server"
    )
    return Check("server's tokens", not different, detail, {"different_prompts": different})


def _length_limit(space: EmbeddingSpace, info: ServerInfo, api_key: str | None) -> Check:
    """The limit that the server reports, and that it refuses one row more, which the client would not send."""
    limit = info.max_model_len
    if limit is None:
        return Check("length limit", False, "the server does not report the maximum length of a prompt")
    rows = encode_prompt_embeds(space.lookup([0]).expand(limit + 1, -1))
    try:
        post(
            f"{info.url}/v1/completions",
            api_key,
            {"model": info.model, "max_tokens": 1, "prompt_embeds": [rows]},
        )
        refused, result = False, "accepted"
    except urllib.error.HTTPError as error:
        refused, result = error.code == 400, f"answered with HTTP {error.code}"
    detail = f"{limit} rows and new tokens together; a prompt of {limit + 1} rows is {result}"
    return Check("length limit", refused, detail, {"max_model_len": limit})


def same_model(server: Sequence[Completion], in_process: Sequence[Completion]) -> Check:
    """Log-probabilities of greedy tokens in process and at the server, up to their first difference."""
    gaps: list[float] = []
    agreeing = 0
    for theirs, ours in zip(server, in_process, strict=True):
        shared = common_prefix(theirs.token_ids, ours.token_ids)
        agreeing += shared > 0
        pairs = zip(theirs.logprobs[:shared], ours.logprobs[:shared], strict=True)
        gaps += [abs(a - b) for a, b in pairs]
    agree = agreeing / len(server)
    mean = sum(gaps) / len(gaps) if gaps else float("inf")
    detail = (
        f"first token as in process for {agree:.0%} of prompts; log-probabilities of {len(gaps)} tokens before the "
        f"first difference are off by {mean:.3f} nats on average (at most {MAX_MEAN_GAP:g})"
    )
    passed = agree >= 0.75 and mean < MAX_MEAN_GAP
    values = {"first_token_agreement": agree, **({"mean_gap": mean} if gaps else {})}  # JSON has no infinity
    return Check("same model", passed, detail, values)


def _payload_dtype(client: VLLMClient, prompt: PromptEmbeds, space: EmbeddingSpace) -> Check:
    """Whether the server answers alike to rows in their own dtype and in float32."""
    own, full = (
        next(iter(client.generate([variant], GREEDY))) for variant in (prompt, prompt.to(torch.float32))
    )
    same = own.token_ids == full.token_ids
    gap = max((abs(a - b) for a, b in zip(own.logprobs, full.logprobs, strict=False)), default=0.0)
    kind, verdict = str(space.dtype).removeprefix("torch."), "the same" if same else "different"
    detail = f"{kind} and float32 payloads give {verdict} tokens, log-probabilities within {gap:.3g} nats"
    return Check("dtype", same, detail, {"largest_gap": gap})
