"""Attacks in documents are counted by attack and by document, not by text."""

import numpy as np

from experiments.safety.evidence import EvidenceText
from experiments.safety.metrics import SHIPPED, TFIDF, Measured
from experiments.safety.report import _diluted_table, caveats
from experiments.safety.selections import diluted, diluted_where_allowed

PLACES = ("begin", "middle", "end")
LONG = "3,000 tokens"


def texts_and_margins():
    """Twenty attacks in two documents at three places; document A is refused with or without one, B never is."""
    texts, margins = [], []
    for length in ("64 tokens", "512 tokens", LONG):
        for place in PLACES:
            form = f"{length}, {place}"
            for number in range(20):
                document = "AB"[number % 2]
                texts.append(
                    EvidenceText("", "attack", "diluted", "direct", "en", form, f"attack {number}", document)
                )
                margins.append(1.0 if document == "A" else -1.0)
            for document in "AB":
                texts.append(
                    EvidenceText("", "benign", "diluted", "document", "en", form, document, document)
                )
                margins.append(1.0 if document == "A" else -1.0)
    return texts, np.array(margins)


def measured():
    return Measured(*texts_and_margins(), np.zeros(0))


def test_an_attack_at_three_places_is_one_unit_and_a_document_is_one():
    own = measured()
    assert own.refused(diluted(LONG)).items == 20
    documents = own.allowed(diluted(LONG, "benign"))
    assert (documents.estimate, documents.items, documents.known) == (0.5, 2, False)


def test_an_attack_in_a_document_that_is_refused_anyway_is_no_catch():
    own = measured()
    assert own.refused(diluted(LONG)).estimate == 0.5
    assert own.refused(diluted_where_allowed(own, LONG)).estimate == 0
    assert "| 0.00 (0.00 to 0.28) | 0.50 (n = 2) |" in _diluted_table(own)


def test_the_card_says_better_only_where_the_interval_does():
    rng = np.random.default_rng(0)
    texts, margins = texts_and_margins()
    kinds = [f"kind {number // 2 % 12}" for number in range(480)]
    sides = ["attack" if number % 2 else "benign" for number in range(480)]
    texts += [EvidenceText("", side, "written", kind, "de") for side, kind in zip(sides, kinds, strict=True)]
    noise = rng.normal(size=480)
    good = np.array([3.0 if side == "attack" else 0.0 for side in sides]) + noise
    fresh = np.zeros(0)

    def said(own, simple):
        return caveats(
            {
                SHIPPED: Measured(texts, np.concatenate([margins, own]), fresh),
                TFIDF: Measured(texts, np.concatenate([margins, simple]), fresh),
            }
        )

    assert "its recall is higher than that of TF-IDF" in said(good, noise)
    assert "its recall is lower than that of TF-IDF" in said(noise, good)
    assert "it cannot be told from TF-IDF" in said(good, good)
    assert "It refuses 50% of 2 documents of 3,000 tokens without an attack" in said(good, good)
