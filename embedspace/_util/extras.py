"""What to install for an optional part of the package."""

from __future__ import annotations


def pip_install(extra: str) -> str:
    """The command for an extra, from a registry and from a clone.

    >>> pip_install("corpus")
    "pip install 'embedspace[corpus]' (in a clone: pip install '.[corpus]')"
    """
    return f"pip install 'embedspace[{extra}]' (in a clone: pip install '.[{extra}]')"
