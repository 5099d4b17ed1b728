"""Vectors found by gradient through the frozen model."""

from embedspace.distillation.optimisation import Optimisation, optimise

__all__ = [
    "Optimisation",
    "optimise",
]
