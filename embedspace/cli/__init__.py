"""The command ``embedspace run | models | serve | verify | cache | gateway | playground | runs | ...``."""

from embedspace.cli.command_line import main, parser

__all__ = ["main", "parser"]
