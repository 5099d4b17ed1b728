"""The page of the command ``embedspace``, from its argument parsers."""

from __future__ import annotations

import argparse
import os

HEAD = """# Commands

`embedspace COMMAND --help` prints the same. `python -m embedspace` is the same command. In a clone, `embedspace run` is
`python experiments/run.py` and `embedspace train` is `python train/projector.py`; their settings are in
[configuration](configuration/index.md).
"""


def page() -> str:
    """MyST text with a section for each command."""
    from embedspace.cli import parser

    os.environ["COLUMNS"] = "88"  # of argparse's usage lines
    (commands,) = (each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    purposes = {choice.dest: choice.help for choice in commands._choices_actions}
    sections = [
        _section(name, purposes.get(name) or "", parser) for name, parser in sorted(commands.choices.items())
    ]
    return "\n".join([HEAD, *sections])


def _section(name: str, purpose: str, parser: argparse.ArgumentParser) -> str:
    rows = [_row(action) for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    table = ["| argument | meaning |", "| --- | --- |", *rows] if rows else ["It takes no arguments."]
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    text = (parser.description or purpose).rstrip(".")
    return "\n".join(
        [f"## {name}", "", f"{text[:1].upper()}{text[1:]}.", "", f"```text\n{usage}\n```", "", *table, ""]
    )


def _row(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.choices is not None and action.metavar is None:
        value = " | ".join(map(str, action.choices))
    takes_value = action.nargs != 0
    names = ", ".join(action.option_strings)
    shown = f"{names} {value}" if names and takes_value else names or str(value)
    help_text = (action.help or "") % {**vars(action), "prog": "embedspace"}
    default = action.default
    if (
        takes_value
        and names
        and default not in (None, argparse.SUPPRESS, [], ())
        and "default" not in help_text
    ):
        help_text = f"{help_text}; default: {default}".lstrip("; ")
    if action.required and names:
        help_text = f"{help_text} (required)".strip()
    shown, help_text = (text.replace("|", "\\|") for text in (shown, help_text))
    return f"| `{shown}` | {help_text} |"
