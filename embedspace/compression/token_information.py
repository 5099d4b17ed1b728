"""Token information: how informative each token is, by the vocabulary's order or a model, and the words they form."""

from __future__ import annotations

import math
import unicodedata
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from embedspace.prompt import tensor_digest
from embedspace.space import token_ids

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace

# Chosen on synthetic passages of facts, by the share of facts that a model recalls after compression.
_DIGIT_BONUS = 1.2
_CAPITAL_BONUS = 2.0
_MAX_WORD_TOKENS = 12
# Chosen on development documents of a knowledge base: a model finds a number by the words that lead to it, and the most
# frequent tokens say nothing of a text's topic.
_LEAD_DECAY = 0.99
_FREQUENT_TOKENS = 300
_BETWEEN_DIGITS, _BEFORE_DIGITS, _AFTER_DIGITS = set(".,:/-"), set("$€£¥#"), set("%°")
# A token that holds only some bytes of a character is decoded to this.
_PARTIAL_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# A prompt is often compressed to several lengths; its surprisal is the same for all.
_CACHED_PROMPTS = 1024
_CACHE: WeakKeyDictionary[TransformersEngine, OrderedDict[str, Tensor]] = WeakKeyDictionary()


def token_texts(space: EmbeddingSpace, ids: Sequence[int]) -> list[str]:
    """Text of each token within a sentence, with the space before it where it has one.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> token_texts(space, space.tokenize("Bread rises."))
    ['B', 'read', ' rises', '.']
    """
    # Decoded alone, a token may lose its leading space: each is decoded after another token.
    anchor = space.tokenize("a")
    before = len(space.tokenizer.decode(anchor))
    known = {token: space.tokenizer.decode([*anchor, token])[before:] for token in set(ids)}
    return [known[token] for token in ids]


def token_information(
    space: EmbeddingSpace, ids: Sequence[int], texts: Sequence[str]
) -> Float[Tensor, " tokens"]:
    """Information of each token by itself, in nats of a Zipf distribution over the vocabulary's order.

    Byte-pair vocabularies list frequent tokens first, so the information of a token is about the logarithm of its id.
    Digits and capitalised words carry facts but have low ids: they get a bonus, and so do the signs of a number
    (``$1,250.50``, ``3%``). Other punctuation has none.

    A model finds a number by the words before it: a word counts at least as much as a number after it, less 1% for
    every word in between.
    """
    number = math.log(space.vocab_size) + _DIGIT_BONUS
    found, lead = [0.0] * len(ids), 0.0
    words, numbers = word_numbers(texts), number_parts(texts)
    for place in reversed(range(len(ids))):
        if place + 1 < len(ids) and words[place] != words[place + 1]:
            lead *= _LEAD_DECAY
        if numbers[place]:
            lead = number
        found[place] = max(lead, _zipf_information(ids[place], texts[place].strip()))
    return torch.tensor(found, dtype=torch.float64)


def is_informative(ids: Sequence[int], texts: Sequence[str]) -> list[bool]:
    """Whether each token is part of a number, or letters outside the vocabulary's 300 most frequent tokens."""
    return [
        number or _zipf_information(token, text.strip()) > math.log(_FREQUENT_TOKENS)
        for token, text, number in zip(ids, texts, number_parts(texts), strict=True)
    ]


def number_parts(texts: Sequence[str]) -> list[bool]:
    """Whether each token is part of a number: digits, signs between digits, a currency before, a unit after."""
    digits = [text.strip().isdigit() for text in texts]
    parts = list(digits)
    for place, text in enumerate(texts):
        # White space separates a number from a sign, except before the first of the two tokens.
        before = place > 0 and digits[place - 1] and not text[:1].isspace()
        after = place + 1 < len(texts) and digits[place + 1] and not texts[place + 1][:1].isspace()
        sign = text.strip()
        if sign in _BETWEEN_DIGITS:
            parts[place] = before and after
        elif sign in _BEFORE_DIGITS:
            parts[place] = after
        elif sign[:1] in _AFTER_DIGITS:
            parts[place] = before
    return parts


def word_numbers(texts: Sequence[str]) -> list[int]:
    """Number of the word that each token belongs to.

    A word is a sequence of letters and digits, or of parts of a number, without a space in between, of at most twelve
    tokens. In scripts without spaces every token is a word.
    """
    numbers: list[int] = []
    size, before, was_number = 0, "", False
    for text, is_number in zip(texts, number_parts(texts), strict=True):
        follows = (was_number and is_number and not text[:1].isspace()) or (
            _joins(before[-1:]) and _joins(text[:1])
        )
        joined = bool(numbers) and size < _MAX_WORD_TOKENS and follows
        size = size + 1 if joined else 1
        numbers.append((numbers[-1] if numbers else -1) + (not joined))
        before, was_number = text, is_number
    return numbers


def _joins(character: str) -> bool:
    if character == _PARTIAL_CHARACTER:
        return True
    return character.isalnum() and unicodedata.east_asian_width(character) not in ("W", "F")


def _zipf_information(token: int, text: str) -> float:
    if not any(character.isalnum() or character == _PARTIAL_CHARACTER for character in text):
        return 0.0
    return math.log(token + 1) + (_CAPITAL_BONUS if text[0].isupper() else 0.0)


def surprisal(
    prompt: PromptEmbeds, space: EmbeddingSpace, engine: TransformersEngine
) -> Float[Tensor, " tokens"]:
    """Negative log-probability of every row's nearest token given the rows before, in nats, float64.

    The first row's is 0. An engine of another model scores the prompt's text with its own tokenizer; the surprisal of
    its tokens is spread evenly over their characters and summed over the characters of the prompt's tokens.
    """
    cached = _CACHE.setdefault(engine, OrderedDict())
    key = f"{prompt.space} {tensor_digest(prompt.vectors)}"
    if key not in cached:
        cached[key] = _prompt_surprisal(prompt, space, engine)
        if len(cached) > _CACHED_PROMPTS:
            cached.popitem(last=False)
    return cached[key]


def _prompt_surprisal(
    prompt: PromptEmbeds, space: EmbeddingSpace, engine: TransformersEngine
) -> Float[Tensor, " tokens"]:
    ids = token_ids(space, prompt.vectors)
    if engine.space.fingerprint == space.fingerprint:
        return _token_nll(engine, prompt.vectors, ids)
    pieces = token_texts(space, ids.tolist())
    theirs, offsets = engine.space.tokenizer.encode_with_offsets("".join(pieces))
    found = _token_nll(engine, engine.space.lookup(theirs), torch.tensor(theirs))
    characters = torch.zeros(sum(map(len, pieces)), dtype=torch.float64)
    for (start, stop), nats in zip(offsets, found.tolist(), strict=True):
        characters[start:stop] = nats / max(1, stop - start)
    totals = torch.cat([characters.new_zeros(1), characters.cumsum(0)])
    ends = torch.tensor([0, *map(len, pieces)]).cumsum(0)
    return totals[ends[1:]] - totals[ends[:-1]]


@torch.inference_mode()
def _token_nll(engine: TransformersEngine, vectors: Tensor, ids: Tensor) -> Float[Tensor, " tokens"]:
    limit = engine.space.context_length
    if limit is not None and len(vectors) > limit:
        raise ValueError(
            f"the prompt has {len(vectors)} rows and the context of {engine.space.name!r} is {limit}; shorten it first "
            "with a method that needs no model, or give the engine of a model with a longer context"
        )
    found = torch.zeros(len(vectors), dtype=torch.float64)
    if len(vectors) > 1:
        rows = vectors[None, :-1].to(engine.device, engine.dtype)
        logits = engine.model(inputs_embeds=rows, use_cache=False).logits[0]
        # In pieces: the log-probabilities of all rows in float32 would take twice the memory of the logits.
        for start in range(0, len(logits), 256):
            piece = logits[start : start + 256].float().log_softmax(dim=-1)
            wanted = ids[start + 1 : start + 1 + len(piece), None].to(piece.device)
            found[start + 1 : start + 1 + len(piece)] = -piece.gather(1, wanted)[:, 0].double().cpu()
    return found
