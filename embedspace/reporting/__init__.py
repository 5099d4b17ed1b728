"""Reports: one HTML page with tables and figures that needs nothing but itself."""

from embedspace.reporting.figures import Figure, Line, dot_figure, line_figure, lines_of
from embedspace.reporting.inspect_log import export_inspect
from embedspace.reporting.report import (
    Answer,
    Comparison,
    Report,
    Section,
    compare_answers,
    effect_cells,
)
from embedspace.reporting.side_by_side import compare_runs
from embedspace.reporting.table import Cell, Table, counted, signed, unsigned
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
    "compare_runs",
    "counted",
    "dot_figure",
    "effect_cells",
    "export_inspect",
    "line_figure",
    "lines_of",
    "signed",
    "unsigned",
    "write_report",
]
