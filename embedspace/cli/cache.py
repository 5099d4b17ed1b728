"""The command ``cache``: a cache of prompts looked at, checked, or made smaller."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    cache = commands.add_parser("cache", help="look at a cache of prompts, check it, or make it smaller")
    cache.set_defaults(run=_cache)
    cache.add_argument("path", type=Path, help="the cache's file")
    cache.add_argument(
        "action",
        choices=("stats", "verify", "prune"),
        help="count the entries; read them all and name damaged ones; drop damaged and old ones",
    )
    cache.add_argument(
        "--max-size", type=size_in_bytes, help="prune: keep at most this, such as 500M or 2G; default: 4G"
    )


def _cache(options: argparse.Namespace) -> int:
    from embedspace.cache import EmbeddingCache

    if not options.path.is_file():
        raise ValueError(f"there is no cache at {options.path}")
    if options.max_size is not None and options.action != "prune":
        raise ValueError(f"--max-size belongs to prune, not to {options.action}")
    with EmbeddingCache(options.path) as cache:
        if options.action == "stats":
            counts = cache.stats()
            print(
                f"{counts.entries:,} entries, {counts.value_bytes:,} bytes; the file has {counts.file_bytes:,}"
            )
            return 0
        if options.action == "prune":
            gone = cache.prune(options.max_size)
            print(
                f"{gone.damaged:,} damaged and {gone.evicted:,} old entries dropped, {gone.freed_bytes:,} bytes freed"
            )
            return 0
        found = cache.verify()
        print(f"{found.entries:,} entries, {len(found.damaged):,} damaged", *found.problems, sep="\n")
        return 0 if found.sound else 1


def size_in_bytes(text: str) -> int:
    """``500M`` as a number of bytes; K, M, G and T are powers of 1024.

    Raises:
        argparse.ArgumentTypeError: no such size.
    """
    if not (size := re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 500M or 2G")
    return int(float(size[1]) * 1024 ** " KMGT".index(size[2] or " "))
