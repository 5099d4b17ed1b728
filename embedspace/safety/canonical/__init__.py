"""Texts as classifiers should see them: disguises undone, and what a text hides beside it."""

from embedspace.safety.canonical.views import MAX_DEPTH, MAX_READ, MAX_VIEWS, canonical, canonical_views

__all__ = ["MAX_DEPTH", "MAX_READ", "MAX_VIEWS", "canonical", "canonical_views"]
