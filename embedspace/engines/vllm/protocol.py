"""The JSON that vLLM's OpenAI-compatible server reads and writes."""

from __future__ import annotations

import json
import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from embedspace.engines.base import Completion, Prompt, Sampling
from embedspace.prompt import PromptEmbeds, encode_checked_vectors, encode_prompt_embeds, message_parts
from embedspace.space.template_variables import CLOCK, RESERVED

if TYPE_CHECKING:
    import torch

    from embedspace.space import Message

_EXAMPLE = 'give a list of conversations, each a list of messages: [[{"role": "user", "content": "..."}]]'

Json = dict[str, Any]
Scores = tuple[tuple[float, ...], tuple[dict[str, float], ...]]


@dataclass(frozen=True)
class CompletionRequest:
    """A completions request for prompts that are all embeddings or all token ids.

    The prompts were checked by :func:`~embedspace.engines.batching.check_prompt`; here they are checked again only
    where they are converted to another dtype.
    """

    path: ClassVar[str] = "/v1/completions"
    model: str
    prompts: tuple[tuple[int, Prompt], ...]
    """Position in the input, and prompt."""
    sampling: Sampling
    dtype: torch.dtype | None
    """Of embeddings on the wire; None keeps each prompt's own."""

    @property
    def subject(self) -> str:
        """What an error message calls the request."""
        first, last = self.prompts[0][0], self.prompts[-1][0]
        return f"prompt {first}" if len(self.prompts) == 1 else f"prompts {first} to {last}"

    def body(self) -> Json:
        """The JSON; embeddings are encoded here.

        Beside embeddings there is no ``prompt`` at all: an empty text would count as one more prompt.

        Raises:
            ValueError: embeddings are not finite in the dtype of the wire.
        """
        body = {"model": self.model, **_sampling_fields(self.sampling)}
        if self.sampling.logprobs is not None:
            body["logprobs"] = self.sampling.logprobs
        embedded = [prompt for _, prompt in self.prompts if isinstance(prompt, PromptEmbeds)]
        if embedded:
            body["prompt_embeds"] = [_encode(prompt, self.dtype) for prompt in embedded]
        else:
            body["prompt"] = [list(ids) for _, ids in self.prompts if not isinstance(ids, PromptEmbeds)]
        return body

    def read(self, sent: float, answer: Any) -> list[Completion]:
        """The completions in the answer to a request that was sent at ``sent`` of ``time.monotonic``."""
        positions = [position for position, _ in self.prompts]
        return _read_completions(answer, positions, self.sampling, time.monotonic() - sent)


@dataclass(frozen=True)
class ChatRequest:
    """A chat request for one conversation; embedded content, checked before, travels as ``prompt_embeds`` parts."""

    path: ClassVar[str] = "/v1/chat/completions"
    model: str
    position: int
    """Of the conversation in the input."""
    messages: Sequence[Message]
    sampling: Sampling
    dtype: torch.dtype | None
    template: Mapping[str, object]
    """Variables of the server's chat template."""

    @property
    def subject(self) -> str:
        """What an error message calls the request."""
        return f"conversation {self.position}"

    def body(self) -> Json:
        """The JSON, as :meth:`CompletionRequest.body`."""
        body = {"model": self.model, **_sampling_fields(self.sampling)}
        if self.sampling.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": self.sampling.logprobs}
        body["messages"] = [
            {**message, "content": _encode_content(message, self.dtype)} for message in self.messages
        ]
        if self.template:
            body["chat_template_kwargs"] = dict(self.template)
        return body

    def read(self, sent: float, answer: Any) -> list[Completion]:
        """The completions in the answer, as :meth:`CompletionRequest.read`."""
        return _read_completions(answer, [self.position], self.sampling, time.monotonic() - sent)


def embedded_parts(messages: Sequence[Message]) -> list[PromptEmbeds]:
    """The embedded content of a conversation, in order.

    Raises:
        TypeError: a content is not text, embeddings or a list of those.
        ValueError: embeddings with template rows, around which the server would put its template once more.
    """
    return [
        part
        for message in _require_messages(messages)
        for part in _parts(message)
        if isinstance(part, PromptEmbeds)
    ]


def require_conversations(conversations: Iterable[Sequence[Message]]) -> Iterable[Sequence[Message]]:
    """The conversations, unless they are one, or text.

    Raises:
        TypeError: text, or something that cannot be iterated over.
    """
    if isinstance(conversations, str | bytes | Mapping) or not isinstance(conversations, Iterable):
        raise TypeError(f"conversations must be a list of them, got {conversations!r:.80}; {_EXAMPLE}")
    return conversations


_OWN_FIELDS = {
    CLOCK: "the server reads its own clock",
    "tools": "the server takes tools in a field of its own and reads calls out of the answer",
    **RESERVED,
}


def server_variables(template: Mapping[str, object] | None) -> Mapping[str, object]:
    """Variables of a server's chat template, as JSON holds them.

    >>> server_variables({"enable_thinking": False})
    {'enable_thinking': False}

    Raises:
        TypeError: not a mapping of names, or a value that JSON cannot hold.
        ValueError: what a server does not take as a variable.
    """
    if not isinstance(template, Mapping | None) or not all(isinstance(name, str) for name in template or {}):
        raise TypeError(
            f"template must be a mapping of names to values, such as {{'enable_thinking': False}}; got {template!r:.80}"
        )
    for name in template or {}:
        if name in _OWN_FIELDS:
            raise ValueError(
                f"template[{name!r}] cannot be given to a server: {_OWN_FIELDS[name]}. Make the prompt with "
                "space.embed_chat, which takes everything that a template reads, and give it to generate"
            )
    try:
        found: Mapping[str, object] = json.loads(json.dumps(dict(template or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"template must hold what JSON can hold: {error}") from error
    return found


def _require_messages(messages: Sequence[Message]) -> Sequence[Message]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise TypeError(f"a conversation must be a list of messages, got {messages!r:.80}; {_EXAMPLE}")
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TypeError(f"messages[{position}] must be a mapping, got {message!r:.80}; {_EXAMPLE}")
    return messages


def _parts(message: Message) -> list[str | PromptEmbeds]:
    """The content of a message; none where tool calls stand in its place, as OpenAI's clients write them."""
    if message.get("content") is None and message.get("tool_calls"):
        return []
    return message_parts(message.get("content"))


def _read_completions(
    answer: Any, prompt_indices: Sequence[int], sampling: Sampling, seconds: float
) -> list[Completion]:
    """The completions in an answer to a completions or chat request, by the choices' own indices.

    Raises:
        ValueError: not the choices that were requested.
        LookupError, TypeError, AttributeError: an answer of another shape.
    """
    choices = {choice["index"]: choice for choice in answer["choices"]}
    expected = len(prompt_indices) * sampling.n
    if len(answer["choices"]) != expected or set(choices) != set(range(expected)):
        raise ValueError(
            f"{expected} choices were requested ({sampling.n} for each of {len(prompt_indices)} prompts), "
            f"the answer has {len(answer['choices'])} with indices {sorted(choices)}"
        )
    completions = []
    for position in range(expected):
        choice = choices[position]
        if choice["finish_reason"] not in ("stop", "length"):
            raise ValueError(f"choice {position} ended with finish_reason {choice['finish_reason']!r}")
        chosen, likeliest = _scores(choice, sampling.logprobs)
        completions.append(
            Completion(
                prompt_indices[position // sampling.n],
                position % sampling.n,
                choice["text"] if "text" in choice else choice["message"]["content"] or "",
                tuple(choice.get("token_ids") or ()),
                choice["finish_reason"],
                seconds,
                chosen,
                likeliest,
            )
        )
    return completions


def read_event(event: Any) -> tuple[str, bool]:
    """The new text in one event of a streamed completion, and whether the completion ends with it.

    Raises:
        LookupError, TypeError: an event of another shape.
    """
    choices = event["choices"]  # an event may carry usage alone
    return "".join(choice["text"] for choice in choices), any(choice["finish_reason"] for choice in choices)


def _scores(choice: Json, count: int | None) -> Scores:
    """Log-probabilities of the new tokens and, at each, of the ``count`` likeliest ones."""
    if count is None:
        return (), ()
    scores = choice["logprobs"]
    if "content" in scores:
        chosen = tuple(token["logprob"] for token in scores["content"])
        shown = [
            {top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in scores["content"]
        ]
    else:
        chosen = tuple(scores["token_logprobs"])
        shown = scores["top_logprobs"]
    # The server lists the chosen token too, likely or not.
    ranked = (sorted(top.items(), key=operator.itemgetter(1), reverse=True) for top in shown)
    return chosen, tuple(dict(tokens[:count]) for tokens in ranked if count)


def _sampling_fields(sampling: Sampling) -> Json:
    fields: Json = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "n": sampling.n,
        "seed": sampling.seed,
        "return_token_ids": True,
        # The server fills what is left out from the model's generation_config.json; these are neutral.
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    return fields | ({"stop": list(sampling.stop)} if sampling.stop else {})


def _encode(prompt: PromptEmbeds, dtype: torch.dtype | None) -> str:
    if dtype is None or dtype == prompt.vectors.dtype:
        return encode_checked_vectors(prompt.vectors)
    return encode_prompt_embeds(prompt, dtype)  # what is finite in one dtype may overflow in another


def _encode_content(message: Message, dtype: torch.dtype | None) -> list[Json] | None:
    parts = [_encode_part(part, dtype) for part in _parts(message)]
    return None if message.get("content") is None else parts


def _encode_part(part: str | PromptEmbeds, dtype: torch.dtype | None) -> Json:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "prompt_embeds", "data": _encode(part, dtype)}
