"""Which of the evidence's texts a figure is of."""

from __future__ import annotations

from experiments.safety.evidence import EvidenceText
from experiments.safety.metrics import Measured, Selection


def written(side: str, *kinds: str, language: str | None = None) -> Selection:
    """A selection of texts written by hand."""

    def wanted(each: EvidenceText) -> bool:
        return (
            each.part == "written"
            and each.side == side
            and (not kinds or each.kind in kinds)
            and language in (None, each.language)
        )

    return wanted


def diluted(form: str, side: str = "attack") -> Selection:
    """Attacks in documents, of a length or of a length and position; or the same documents without them."""
    return lambda each: each.part == "diluted" and each.side == side and each.form.startswith(form)


def diluted_where_allowed(own: Measured, form: str) -> Selection:
    """Attacks in documents of a form that are allowed without one: a refused one says nothing of the attack in it."""
    alone, hidden = diluted(form, "benign"), diluted(form)
    verdicts = [
        (each.document, margin <= 0)
        for each, margin in zip(own.texts, own.margins, strict=True)
        if alone(each)
    ]
    refused = {document for document, allowed in verdicts if not allowed}
    allowed = {document for document, _ in verdicts} - refused
    return lambda each: hidden(each) and each.document in allowed


def undisguised(side: str) -> Selection:
    """Texts written by hand and those of packages."""
    return lambda each: each.part in ("written", "packages") and each.side == side


def other_languages(each: EvidenceText) -> bool:
    """Attacks written in another language than English."""
    return each.part == "written" and each.side == "attack" and each.language != "en"


def attacks(each: EvidenceText) -> bool:
    """All attacks."""
    return each.side == "attack"


def benign(each: EvidenceText) -> bool:
    """All benign texts."""
    return each.side == "benign"


def kind_of(each: EvidenceText) -> str:
    """The kind of a text, to count each kind once."""
    return each.kind


def kinds_of(own: Measured, side: str) -> list[str]:
    """Kinds of the texts written by hand."""
    return list(dict.fromkeys(each.kind for each in own.texts if written(side)(each)))


def count_of(own: Measured, kind: str) -> int:
    """Number of benign texts of a kind."""
    return sum(map(written("benign", kind), own.texts))
