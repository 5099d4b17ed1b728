"""What launches the jobs of a sweep, and what has to be installed for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec

from embedspace._util.extras import pip_install

EXTRAS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "slurm_gpu": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "ray-launcher"),
}
"""Name of a launcher -> the plug-in that it needs and the extra that installs it."""


def missing_launcher(words: Sequence[str]) -> str | None:
    """What to install for the launcher that a command line names; None where nothing is missing.

    Hydra itself would only say that its group has no such entry, before any code of an experiment runs.
    """
    for word in words:
        named = re.fullmatch(r"\+?(?:hydra/)?launcher=(\w+)", word)
        if named and named[1] in EXTRAS:
            plugin, extra = EXTRAS[named[1]]
            if not _installed(plugin):
                return (
                    f"{word} needs a plug-in of Hydra that is not installed: "
                    f"{pip_install(extra)}. launcher=local needs none"
                )
    return None


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent, the name space of all plug-ins, is missing as well
        return False
