"""The whole command line: its parser, and what an error prints and exits with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from embedspace._util import entry_points
from embedspace._version import __version__
from embedspace.cli import cache, models, results, servers
from embedspace.errors import EngineError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 is success, 1 a failed check or engine or a difference, 2 wrong use."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words[:1] in (["run"], ["train"]):  # all other words are Hydra's, those with dashes included
            entry_points.start(words[0], words[1:])
        options = parser().parse_args(words or ["--help"])
        status: int = options.run(options)
        return status
    except (ValueError, OSError, EngineError) as error:
        print(f"embedspace: {error}", file=sys.stderr)
        return 1 if isinstance(error, EngineError) else 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The parser of all commands, without importing what they run."""
    command_line = argparse.ArgumentParser(
        prog="embedspace", description="Language-model prompts in embedding space."
    )
    command_line.add_argument("--version", action="version", version=f"embedspace {__version__}")
    commands = command_line.add_subparsers(required=True, metavar="COMMAND")
    for group in (entry_points, models, servers, results, cache):
        group.add_commands(commands)
    return command_line
