"""The playground: a local web page that moves a prompt and shows what changes; see docs/playground.md."""

from embedspace.playground.view import Limits, View

__all__ = ["Limits", "View"]
