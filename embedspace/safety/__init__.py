"""Screening of prompts that are vectors: see :class:`embedspace.SafetyFilter` and docs/safety.md."""

from embedspace.safety.filter import SafetyFilter
from embedspace.safety.verdict import Explanation, Finding, Verdict

__all__ = ["Explanation", "Finding", "SafetyFilter", "Verdict"]
