"""Sentence vectors as soft tokens that a frozen language model can read."""

from embedspace.encoders import SentenceEncoder
from embedspace.projector.config import ProjectorConfig
from embedspace.projector.projector import Projector

__all__ = ["Projector", "ProjectorConfig", "SentenceEncoder"]
