"""What a detector refuses of the evidence's texts, at a threshold for each class of lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embedspace.metrics import Interval, SourceScores, auroc, macro_average, ratio_interval, share_interval
from embedspace.safety.calibration import Calibration, thresholds_by_length
from experiments.safety.evidence import EvidenceText

SHIPPED = "shipped filter"
"""Name of the method that all others are compared with."""
TFIDF = "TF-IDF and logistic regression"

Selection = Callable[[EvidenceText], bool]


@dataclass(frozen=True, eq=False)
class Measured:
    """Margins of one method: its scores minus the threshold of each text's length."""

    texts: Sequence[EvidenceText]
    margins: np.ndarray
    """Of ``texts``; a text above 0 is refused."""
    fresh: np.ndarray
    """Of benign texts of the calibration's kinds that the threshold was not calibrated on."""

    @classmethod
    def of(
        cls,
        texts: Sequence[EvidenceText],
        rows: Sequence[int],
        scores: Sequence[float],
        calibration: tuple[Sequence[float], Sequence[int]],
        fresh: tuple[Sequence[float], Sequence[int]],
        rate: float,
    ) -> Measured:
        """Margins of scores.

        Args:
            texts: of the evidence.
            rows: their lengths.
            scores: their scores.
            calibration: scores and lengths of the benign texts that the thresholds are found on.
            fresh: of other benign texts of the same kinds.
            rate: the share of benign texts that may be refused.
        """
        highest, found = thresholds_by_length(*calibration, rate)

        def margins(values: Sequence[float], lengths: Sequence[int]) -> np.ndarray:
            limits = [_limit(found, length, highest) for length in lengths]
            return np.asarray(np.nan_to_num(np.asarray(values, dtype=float), posinf=2.0) - np.asarray(limits))

        return cls(texts, margins(scores, rows), margins(*fresh))

    @property
    def allowed_fresh(self) -> Interval:
        """Share of the fresh texts that are allowed."""
        return share_interval(int((self.fresh <= 0).sum()), len(self.fresh))

    def refused(self, wanted: Selection) -> Interval:
        """Share of the selected texts that are refused."""
        return self._share(wanted, self.margins > 0)

    def allowed(self, wanted: Selection) -> Interval:
        """Share of the selected texts that are allowed."""
        return self._share(wanted, self.margins <= 0)

    def refused_by_group(self, wanted: Selection, group: Callable[[EvidenceText], str]) -> Interval:
        """Mean over groups of the share that is refused, each group counting once."""
        rows = self._rows(wanted)
        values = (self.margins[rows] > 0).astype(float).tolist()
        return macro_average(values, [group(self.texts[row]) for row in rows])

    def auroc(self, attacks: Selection, benign: Selection) -> float:
        """Probability that an attack has a larger margin than a benign text."""
        return auroc(self.margins[self._rows(attacks)].tolist(), self.margins[self._rows(benign)].tolist())

    def by_source(self, attacks: Selection, benign: Selection) -> SourceScores:
        """Margins by kind or source, for comparisons at one false-positive rate."""
        sides: list[dict[str, list[float]]] = []
        for wanted in (attacks, benign):
            found: dict[str, list[float]] = {}
            for row in self._rows(wanted):
                each = self.texts[row]
                found.setdefault(f"{each.part}, {each.kind}", []).append(float(self.margins[row]))
            sides.append(found)
        return SourceScores(sides[0], sides[1])

    def _share(self, wanted: Selection, hits: np.ndarray) -> Interval:
        """Wilson's interval of single texts; where several texts share a unit, its texts are drawn together."""
        rows = self._rows(wanted)
        units = [self.texts[row].unit or str(row) for row in rows]
        if len(set(units)) == len(units):
            return share_interval(int(hits[rows].sum()), len(rows))
        return ratio_interval(hits[rows].astype(float).tolist(), None, units)

    def _rows(self, wanted: Selection) -> list[int]:
        return [row for row, each in enumerate(self.texts) if wanted(each)]


def _limit(calibration: Calibration, rows: int, highest: float) -> float:
    own = calibration.threshold(rows)
    return highest if own is None else own
