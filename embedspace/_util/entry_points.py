"""The programs of experiments and trainings: where they lie in a clone and an installed package, and their start."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_SCRIPTS = {"run": "experiments/run.py", "train": "train/projector.py"}


def research_folder() -> Path:
    """The folder with ``experiments/``, ``train/`` and ``configs/``: the clone, or a part of the installed package."""
    installed = _PACKAGE / "research"
    return installed if installed.is_dir() else _PACKAGE.parent


def script(name: str) -> Path:
    """The program of the command ``embedspace run`` or ``embedspace train``."""
    return research_folder() / _SCRIPTS[name]


def start(name: str, arguments: Sequence[str]) -> None:
    """Become the program, with its words as they were given; classes of the working directory can be imported.

    The process is replaced: signals, exit status and the processes that launchers and DDP start are the program's own.

    Raises:
        ValueError: the program is not there (a package that was built without it).
    """
    program = script(name)
    if not program.is_file():
        raise ValueError(
            f"this installation has no {_SCRIPTS[name]}; reinstall embedspace from its wheel or its repository"
        )
    for warning in hidden_folders(Path.cwd()):
        print(warning, file=sys.stderr)
    places = [str(research_folder()), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(place for place in places if place)}
    sys.stdout.flush()
    # -P: the program's own folder is no place to import from; its modules have the names of other libraries.
    os.execve(sys.executable, [sys.executable, "-P", str(program), *arguments], environment)


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """List the programs for ``--help``; their own words are Hydra's."""
    for name, purpose in (
        ("run", "run an experiment, in any folder; embedspace run --help lists experiments and settings"),
        ("train", "train a projector, in any folder; embedspace train --help lists the settings"),
    ):
        program = commands.add_parser(name, help=purpose, add_help=False, prefix_chars="\0")
        program.add_argument(
            "words",
            nargs="*",
            metavar="GROUP=NAME | SETTING=VALUE | --multirun | --config-dir FOLDER | ...",
            help="words for Hydra, such as experiment=style size=small; --config-dir adds a folder of your own",
        )


def hidden_folders(working: Path) -> list[str]:
    """A sentence for each folder of the working directory whose classes the toolkit's own packages hide."""
    if working.resolve() == research_folder():
        return []
    return [
        f"embedspace: classes in {name}/ are not found, a package of the toolkit has that name; rename the folder"
        for name in ("experiments", "train")
        if any((working / name).glob("*.py"))
    ]


def command_name(program: Path) -> str | None:
    """``embedspace run`` for the program of that command; None for any other."""
    names = (name for name in _SCRIPTS if script(name) == program)
    return next((f"embedspace {name}" for name in names), None)
