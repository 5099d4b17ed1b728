"""Interpolation between prompts."""

from embedspace.interpolation.methods import blend, interpolate, path

__all__ = [
    "blend",
    "interpolate",
    "path",
]
