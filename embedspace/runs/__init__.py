"""Runs: cases, their execution, records, run folders, replay and comparison."""

from embedspace.runs.cases import AnswerOf, Case, prompt_sha256
from embedspace.runs.diff import differences
from embedspace.runs.execution import execute
from embedspace.runs.records import Record, Tag, by_tags, read_records
from embedspace.runs.replayed import replay
from embedspace.runs.replayer import Replayer
from embedspace.runs.run import UNIMPORTANT, Run, last_engine

__all__ = [
    "UNIMPORTANT",
    "AnswerOf",
    "Case",
    "Record",
    "Replayer",
    "Run",
    "Tag",
    "by_tags",
    "differences",
    "execute",
    "last_engine",
    "prompt_sha256",
    "read_records",
    "replay",
]
