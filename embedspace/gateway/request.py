"""The JSON of a request, read strictly, and every place of it where a prompt can stand.

What is not known is refused: a server that takes prompts in one more place would take them there unscreened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Limits

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

# What changes how an answer is made and not what is asked. Left out on purpose: whatever else carries tensors, media,
# templates or addresses (mm_payload, kv_transfer_params, mm_processor_kwargs, chat_template, ...), and what reaches
# other callers' requests (priority, request_id).
_SAMPLING = """
    model frequency_penalty presence_penalty repetition_penalty length_penalty logit_bias logprobs prompt_logprobs
    max_tokens min_tokens n best_of seed stop stop_token_ids include_stop_str_in_output ignore_eos stream stream_options
    stream_interval temperature top_p top_k min_p user use_beam_search skip_special_tokens spaces_between_special_tokens
    add_special_tokens allowed_token_ids logprob_token_ids bad_words response_format structured_outputs
    return_tokens_as_token_ids return_token_ids thinking_token_budget cache_salt echo metadata store service_tier
"""
_CONVERSATION = """
    messages top_logprobs max_completion_tokens tools tool_choice parallel_tool_calls reasoning_effort include_reasoning
    add_generation_prompt continue_final_message documents chat_template_kwargs verbosity
"""
FIELDS = {
    COMPLETIONS: frozenset(_SAMPLING.split()) | {"prompt", "prompt_embeds", "suffix"},
    CHAT: frozenset(_SAMPLING.split()) | frozenset(_CONVERSATION.split()),
}
"""What a request can have at its top level, by the address that it is sent to."""
# Not for callers among a template's variables: what stands in the request itself, and arguments of the tokenizer (with
# "padding" and "max_length" a request of a hundred bytes takes gigabytes of the server).
_NO_VARIABLES = """
    messages conversation tools documents chat_template tokenize tokenizer_kwargs padding truncation max_length
    return_tensors return_dict return_assistant_tokens_mask add_generation_prompt continue_final_message
"""
_NO_TEMPLATE_VARIABLES = frozenset(_NO_VARIABLES.split())
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_MESSAGE = "role content name tool_calls tool_call_id function_call refusal reasoning reasoning_content"
_MESSAGE_FIELDS = frozenset(_MESSAGE.split())
# Exactly these fields and no more: a part with a "uuid", or without a "type", may be read by other fields than those of
# its type.
_PARTS = {"text": "text", "refusal": "refusal", "prompt_embeds": "data"}


@dataclass(frozen=True)
class Piece:
    """One prompt, or one part of one."""

    param: str
    """Where it stands, as ``prompt_embeds[3]``."""
    value: str | list[int]
    """Payload, text or token ids."""
    embedded: bool = False
    """Whether the value is a payload."""
    home: Any = None
    """Object or array of the request that holds the payload."""
    key: str | int = ""
    """Under which it does."""


def parse(data: bytes, depth: int) -> dict[str, Any]:
    """The object that a request's body holds.

    Raises:
        RefusedError: not UTF-8, not JSON, not an object, a field twice, NaN or infinity, or nested too deeply.
    """
    try:
        body = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise _too_deep(depth) from None
    except ValueError:  # a JSONDecodeError quotes the text that it could not read
        raise RefusedError(400, "invalid_json", "the body is not valid JSON in UTF-8") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "invalid_json", "the body must be a JSON object")
    level: list[Any] = [body]
    for _ in range(depth):
        level = [
            value
            for each in level
            for value in (each.values() if isinstance(each, dict) else each)
            if isinstance(value, dict | list)
        ]
        if not level:
            return body
    raise _too_deep(depth)


def pieces(path: str, body: dict[str, Any], limits: Limits) -> list[Piece]:
    """Every prompt or part of one, in the order in which the model reads them; all of them known to be well-formed.

    Raises:
        RefusedError: an unknown field, role or content part, something of another type, or more than is allowed.
    """
    if unknown := body.keys() - FIELDS[path]:
        raise RefusedError(
            400,
            "unknown_field",
            f"{len(unknown)} of the request's fields are not let through; docs/gateway.md lists those that are",
        )
    if not isinstance(body.get("model", ""), str | None):
        raise _wrong("model", "a string")
    if not isinstance(body.get("stream", False), bool | None):
        raise _wrong("stream", "true or false")
    found = list(_completion_pieces(body) if path == COMPLETIONS else _chat_pieces(body, limits))
    if path == CHAT and len(found) > limits.parts:
        raise RefusedError(
            400,
            "too_many_parts",
            f"the conversation has {len(found)} texts and parts and at most {limits.parts} are allowed",
            param="messages",
        )
    counted = sum(piece.embedded or path == COMPLETIONS for piece in found)
    if counted > limits.prompts:
        raise RefusedError(
            400,
            "too_many_prompts",
            f"the request has {counted} prompts and at most {limits.prompts} are allowed; send several requests",
        )
    return found


def _completion_pieces(body: dict[str, Any]) -> Iterator[Piece]:
    match body.get("prompt_embeds"):
        case None | []:
            pass
        case str() as payload:
            yield Piece("prompt_embeds", payload, True, body, "prompt_embeds")
        case list() as payloads if all(isinstance(each, str) for each in payloads):
            for number, payload in enumerate(payloads):
                yield Piece(f"prompt_embeds[{number}]", payload, True, payloads, number)
        case _:
            raise _wrong("prompt_embeds", "a base64 string or a list of them")
    match body.get("prompt"):
        case None | []:
            pass
        case str() as text:
            yield Piece("prompt", text)
        case list() as prompts if _ids(prompts):
            yield Piece("prompt", prompts)
        case list() as prompts if all(isinstance(each, str) or _ids(each) for each in prompts):
            for number, each in enumerate(prompts):
                yield Piece(f"prompt[{number}]", each)
        case _:
            raise _wrong("prompt", "a string, a list of token ids, or a list of those")
    yield from _texts("suffix", body.get("suffix"))


def _chat_pieces(body: dict[str, Any], limits: Limits) -> Iterator[Piece]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of at least one message")
    if len(messages) > limits.messages:
        raise RefusedError(
            400,
            "too_many_messages",
            f"the conversation has {len(messages)} messages and at most {limits.messages} are allowed",
            param="messages",
        )
    _require_template_variables(body.get("chat_template_kwargs"))
    # Templates write tools and documents before the conversation.
    for name in ("tools", "documents", "chat_template_kwargs"):
        yield from _texts(name, body.get(name))
    for number, message in enumerate(messages):
        yield from _message_pieces(f"messages[{number}]", message)


def _require_template_variables(variables: Any) -> None:
    match variables:
        case None:
            return
        case dict() if not variables.keys() & _NO_TEMPLATE_VARIABLES and all(
            isinstance(value, str | int | float | None) for value in variables.values()
        ):
            return
    raise _wrong(
        "chat_template_kwargs",
        "an object of strings, numbers, true, false and null, with no names that the request or the tokenizer has",
    )


def _message_pieces(param: str, message: Any) -> Iterator[Piece]:
    if not isinstance(message, dict) or not message.keys() <= _MESSAGE_FIELDS:
        raise _wrong(param, f"an object with no other fields than {', '.join(sorted(_MESSAGE_FIELDS))}")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong(f"{param}.role", f"one of {', '.join(sorted(_ROLES))}")
    match message.get("content"):
        case None:
            pass
        case str() as text:
            yield Piece(f"{param}.content", text)
        case list() as parts:
            for number, part in enumerate(parts):
                yield _part(f"{param}.content[{number}]", part)
        case _:
            raise _wrong(f"{param}.content", "a string or a list of parts")
    for name in sorted(_MESSAGE_FIELDS - {"role", "content", "tool_call_id"}):
        yield from _texts(f"{param}.{name}", message.get(name))


def _part(param: str, part: Any) -> Piece:
    if isinstance(part, str):
        return Piece(param, part)
    kind = part.get("type") if isinstance(part, dict) else None
    field = _PARTS.get(kind) if isinstance(kind, str) else None
    if field is None:
        raise RefusedError(
            400, "unknown_part", f"a content part must have one of the types {', '.join(_PARTS)}", param=param
        )
    if part.keys() != {"type", field} or not isinstance(part[field], str):
        raise _wrong(param, f"an object with the fields type and {field}, a string, and no others")
    return Piece(param, part[field], kind == "prompt_embeds", part, field)


def _texts(param: str, value: Any) -> Iterator[Piece]:
    """All strings below a value, the names of objects' fields included, as one text."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                found.append(text)
            case list() as items:
                waiting.extend(reversed(items))
            case dict() as fields:
                waiting.extend(item for pair in reversed(fields.items()) for item in reversed(pair))
    if found:
        yield Piece(param, "\n".join(found))


def _ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise RefusedError(400, "duplicate_field", "the body has an object with the same field twice")
    return made


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("out of range")
    return number


def _too_deep(depth: int) -> RefusedError:
    return RefusedError(
        400, "json_too_deep", f"the body is nested more deeply than the {depth} levels that are allowed"
    )


def _wrong(param: str, allowed: str) -> RefusedError:
    return RefusedError(400, "invalid_field", f"{param} must be {allowed}", param=param)
