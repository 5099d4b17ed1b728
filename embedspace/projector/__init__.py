"""Projectors: sentence vectors as soft tokens that a frozen language model can read."""

from embedspace.encoders import SentenceEncoder
from embedspace.projector.config import ProjectorConfig
from embedspace.projector.evaluation import CONDITIONS, ConditionScores
from embedspace.projector.heads import Lexical, Ridge, content_words
from embedspace.projector.projector import Projector, insert
from embedspace.projector.reader import INSTRUCTION, SoftTokenReader

__all__ = [
    "CONDITIONS",
    "INSTRUCTION",
    "ConditionScores",
    "Lexical",
    "Projector",
    "ProjectorConfig",
    "Ridge",
    "SentenceEncoder",
    "SoftTokenReader",
    "content_words",
    "insert",
]
