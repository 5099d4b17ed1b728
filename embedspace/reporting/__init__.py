"""Reports: one HTML page with tables and figures that needs nothing but itself."""

from embedspace.reporting.figures import Figure, Line, dot_figure, line_figure
from embedspace.reporting.report import (
    Answer,
    Cell,
    Comparison,
    Report,
    Section,
    Table,
    signed,
    unsigned,
    write_report,
)

__all__ = [
    "Answer",
    "Cell",
    "Comparison",
    "Figure",
    "Line",
    "Report",
    "Section",
    "Table",
    "dot_figure",
    "line_figure",
    "signed",
    "unsigned",
    "write_report",
]
