"""The texts that a filter's evidence is measured on, none of which a filter was fitted on or chosen by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from experiments.safety.acceptance import (
    LENGTHS,
    POSITIONS,
    AcceptanceText,
    acceptance_texts,
    dilute,
    own_carriers,
)
from experiments.safety.data import examples
from experiments.safety.obfuscations import OBFUSCATIONS, obfuscate
from experiments.safety.patterns import Side

PLAIN_KINDS = ("direct", "personas", "extraction")
"""Attacks that are a message by themselves; orders in documents are whole documents already."""


@dataclass(frozen=True)
class EvidenceText:
    """One text, and what it is counted with."""

    text: str
    side: Side
    part: str
    """``written``, ``packages``, ``diluted`` or ``obfuscated``."""
    kind: str
    """Of the written text, or the source of a package's."""
    language: str
    form: str = ""
    """Of diluted texts length and position, of obfuscated ones the obfuscation."""
    unit: str = ""
    """Of diluted texts the attack that they hide, or the document without one: texts of one are not independent."""
    document: str = ""
    """Of diluted texts the document."""


def evidence_texts(count: Callable[[str], int], diluted: int, obfuscated: int) -> list[EvidenceText]:
    """All texts: written by hand, of sealed sources, attacks in documents with the same documents without them, and
    attacks in disguise.

    Args:
        count: number of tokens of a text.
        diluted: attacks that are hidden in documents, at each length and position.
        obfuscated: attacks that are disguised, in each form.
    """
    written = acceptance_texts()
    return [
        *(EvidenceText(each.text, each.side, "written", each.kind, each.language) for each in written),
        *(
            EvidenceText(each.text, each.source.side, "packages", each.source.name, each.source.language)
            for each in examples("sealed")
        ),
        *_diluted(_drawn(written, diluted), count),
        *(
            EvidenceText(obfuscate(form, each.text), "attack", "obfuscated", each.kind, "en", form)
            for form in OBFUSCATIONS
            for each in _drawn(written, obfuscated)
        ),
    ]


def _drawn(texts: Sequence[AcceptanceText], number: int) -> list[AcceptanceText]:
    """English attacks that are one message, drawn by hash."""
    plain = [
        each for each in texts if each.side == "attack" and each.language == "en" and each.kind in PLAIN_KINDS
    ]
    return sorted(plain, key=lambda each: hashlib.sha256(each.id.encode()).digest())[:number]


def _diluted(attacks: Sequence[AcceptanceText], count: Callable[[str], int]) -> Iterator[EvidenceText]:
    carriers = own_carriers("en", count)
    for length in LENGTHS:
        for position in POSITIONS:
            for number, each in enumerate(attacks):
                carrier = carriers[number % len(carriers)]
                made = dilute(each.text, carrier, length, position, count)
                form = f"{length:,} tokens, {position}"
                yield EvidenceText(
                    made.text, "attack", "diluted", each.kind, "en", form, each.id, carrier.name
                )
                if number < len(carriers):  # the same document without an attack, once for each carrier
                    name = carrier.name
                    yield EvidenceText(made.control, "benign", "diluted", "document", "en", form, name, name)
