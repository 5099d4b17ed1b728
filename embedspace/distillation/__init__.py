"""Vectors found by gradient through the frozen model."""

from embedspace.distillation.optimisation import optimise
from embedspace.distillation.settings import Optimisation

__all__ = [
    "Optimisation",
    "optimise",
]
