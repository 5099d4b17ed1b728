"""The JSON of a request, parsed strictly, and every place in it that can hold a prompt.

Unknown fields are refused: a server that accepts prompts in another field would accept them there unscreened.
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

# Fields that change how an answer is generated, not the prompt. Excluded on purpose: other fields for tensors, media,
# templates or addresses (mm_payload, kv_transfer_params, mm_processor_kwargs, chat_template, ...), and fields that
# affect other callers' requests (priority, request_id).
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
"""Allowed top-level fields of a request, by its address."""
# Forbidden among a template's variables: fields of the request itself, and arguments of the tokenizer (with "padding"
# and "max_length" a request of a hundred bytes allocates gigabytes at the server).
_RESERVED = """
    messages conversation tools documents chat_template tokenize tokenizer_kwargs padding truncation max_length
    return_tensors return_dict return_assistant_tokens_mask add_generation_prompt continue_final_message
"""
_RESERVED_VARIABLES = frozenset(_RESERVED.split())
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_MESSAGE = "role content name tool_calls tool_call_id function_call refusal reasoning reasoning_content"
_MESSAGE_FIELDS = frozenset(_MESSAGE.split())
# Fields that are screened by themselves, and the name of the model, which must be one that the server serves.
_PROMPT = "prompt prompt_embeds suffix messages tools documents chat_template_kwargs model"
_PROMPT_FIELDS = frozenset(_PROMPT.split())
# Values of the protocol, which say nothing to a model.
_WORDS = """
    auto none required default flex priority low medium high minimal text json_object json_schema type function name
    include_usage continuous_usage_stats
"""
_PROTOCOL_WORDS = frozenset(_WORDS.split())
# The only fields of a part beside "type": for a part with a "uuid", or without a "type", the server may read other
# fields than those of its type.
_PARTS = {"text": "text", "refusal": "refusal", "prompt_embeds": "data"}


_MAX_DIGITS = 400


@dataclass(frozen=True)
class Piece:
    """One prompt, or one part of a prompt."""

    param: str
    """Its place in the request, such as ``prompt_embeds[3]``."""
    value: str | list[int]
    """Payload, text or token ids."""
    embedded: bool = False
    """Whether the value is a payload."""
    container: Any = None
    """Object or array of the request that holds the payload."""
    key: str | int = ""
    """Key or index of the payload in its container."""


def parse(data: bytes, limits: Limits) -> dict[str, Any]:
    """The object that a request's body holds.

    Raises:
        RefusedError: not UTF-8, not JSON, not an object, a field twice, NaN or infinity, too many values, or nested too
            deeply.
    """
    depth = limits.depth
    # Before it is parsed, which takes time and memory for each.
    values = sum(data.count(sign) for sign in (b",", b"[", b"{"))
    _require_at_most(limits.values, values, "values", "too_many_values", None, "; send several requests")
    try:
        body = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique_fields,
            parse_constant=_refuse_constant,
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
    """Every prompt or part of one, checked for its form, in the order in which the model reads them.

    Raises:
        RefusedError: an unknown field, role or content part, a value of a wrong type, or more than the limits allow.
    """
    if unknown := body.keys() - FIELDS[path]:
        raise RefusedError(
            400,
            "unknown_field",
            f"{len(unknown)} of the request's fields are not allowed; docs/gateway.md lists those that are",
        )
    if not isinstance(body.get("model", ""), str | None):
        raise _invalid_field("model", "a string")
    if not isinstance(body.get("stream", False), bool | None):
        raise _invalid_field("stream", "true or false")
    found = list(_completion_pieces(body) if path == COMPLETIONS else _chat_pieces(body, limits))
    if path == CHAT:
        _require_at_most(limits.parts, len(found), "texts and parts", "too_many_parts", "messages")
    count = sum(piece.embedded or path == COMPLETIONS for piece in found)
    _require_at_most(limits.prompts, count, "prompts", "too_many_prompts", None, "; send several requests")
    rest = [value for name, value in body.items() if name not in _PROMPT_FIELDS]
    return [*found, *_joined_strings("request", rest, _PROTOCOL_WORDS)]


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
            raise _invalid_field("prompt_embeds", "a base64 string or a list of them")
    match body.get("prompt"):
        case None | []:
            pass
        case str() as text:
            yield Piece("prompt", text)
        case list() as prompts if _is_ids(prompts):
            yield Piece("prompt", prompts)
        case list() as prompts if all(isinstance(each, str) or _is_ids(each) for each in prompts):
            for number, each in enumerate(prompts):
                yield Piece(f"prompt[{number}]", each)
        case _:
            raise _invalid_field("prompt", "a string, a list of token ids, or a list of those")
    yield from _joined_strings("suffix", body.get("suffix"))


def _chat_pieces(body: dict[str, Any], limits: Limits) -> Iterator[Piece]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _invalid_field("messages", "a list of at least one message")
    _require_at_most(limits.messages, len(messages), "messages", "too_many_messages", "messages")
    _require_template_variables(body.get("chat_template_kwargs"))
    # Templates write tools and documents before the conversation.
    for name in ("tools", "documents", "chat_template_kwargs"):
        yield from _joined_strings(name, body.get(name))
    for number, message in enumerate(messages):
        yield from _message_pieces(f"messages[{number}]", message)


def _require_template_variables(variables: Any) -> None:
    match variables:
        case None:
            return
        case dict() if not variables.keys() & _RESERVED_VARIABLES and all(
            isinstance(value, str | int | float | None) for value in variables.values()
        ):
            return
    raise _invalid_field(
        "chat_template_kwargs",
        "an object of strings, numbers, true, false and null, without names of the request's or the tokenizer's own",
    )


def _message_pieces(param: str, message: Any) -> Iterator[Piece]:
    if not isinstance(message, dict) or not message.keys() <= _MESSAGE_FIELDS:
        raise _invalid_field(
            param, f"an object with no other fields than {', '.join(sorted(_MESSAGE_FIELDS))}"
        )
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _invalid_field(f"{param}.role", f"one of {', '.join(sorted(_ROLES))}")
    match message.get("content"):
        case None:
            pass
        case str() as text:
            yield Piece(f"{param}.content", text)
        case list() as parts:
            for number, part in enumerate(parts):
                yield _part(f"{param}.content[{number}]", part)
        case _:
            raise _invalid_field(f"{param}.content", "a string or a list of parts")
    # Whatever else a message has may be printed by a template: names, calls of tools and their arguments, ids.
    yield from _joined_strings(
        param, [message[name] for name in sorted(message) if name not in ("role", "content")]
    )


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
        raise _invalid_field(param, f"an object with the fields type and {field}, a string, and no others")
    return Piece(param, part[field], kind == "prompt_embeds", part, field)


def _joined_strings(param: str, value: Any, ignored: frozenset[str] = frozenset()) -> Iterator[Piece]:
    """All strings in a nested value, field names included, as one text."""
    found: list[str] = []
    pending = [value]
    while pending:
        match pending.pop():
            case str() as text:
                if text not in ignored:
                    found.append(text)
            case list() as items:
                pending.extend(reversed(items))
            case dict() as fields:
                pending.extend(item for pair in reversed(fields.items()) for item in reversed(pair))
    if found:
        yield Piece(param, "\n".join(found))


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _require_at_most(
    limit: int, count: int, what: str, code: str, param: str | None, advice: str = ""
) -> None:
    if count > limit:
        message = f"the request has {count} {what} and at most {limit} are allowed{advice}"
        raise RefusedError(400, code, message, param=param)


def _unique_fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise RefusedError(400, "duplicate_field", "an object in the body has the same field twice")
    return fields


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _finite(text: str) -> float:
    if len(text) > _MAX_DIGITS:
        raise ValueError("too long")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("out of range")
    return number


def _too_deep(depth: int) -> RefusedError:
    return RefusedError(
        400, "json_too_deep", f"the body is nested more deeply than the {depth} levels that are allowed"
    )


def _invalid_field(param: str, allowed: str) -> RefusedError:
    return RefusedError(400, "invalid_field", f"{param} must be {allowed}", param=param)
