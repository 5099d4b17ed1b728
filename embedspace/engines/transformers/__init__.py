"""The in-process engine."""

from embedspace.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
