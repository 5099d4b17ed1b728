"""Reports: one HTML page with tables and figures that needs nothing but itself."""

from embedspace.reporting.figures import Figure, Line, dot_figure, line_figure, lines_of
from embedspace.reporting.report import (
    Answer,
    Cell,
    Comparison,
    Report,
    Section,
    Table,
    compare_answers,
    effect_cells,
    signed,
    unsigned,
)
from embedspace.reporting.writing import write_report

__all__ = [
    "Answer",
    "Cell",
    "Comparison",
    "Figure",
    "Line",
    "Report",
    "Section",
    "Table",
    "compare_answers",
    "dot_figure",
    "effect_cells",
    "line_figure",
    "lines_of",
    "signed",
    "unsigned",
    "write_report",
]
