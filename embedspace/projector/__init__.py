"""Sentence vectors as soft tokens that a frozen language model can read."""

from embedspace.projector.config import ProjectorConfig
from embedspace.projector.encoder import SentenceEncoder
from embedspace.projector.projector import Projector

__all__ = ["Projector", "ProjectorConfig", "SentenceEncoder"]
