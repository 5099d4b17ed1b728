"""TrackioLogger: metrics of a training in Trackio's local database, for its dashboard."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from embedspace._util.extras import pip_install


class TrackioLogger(Logger):
    """Lightning's logger interface over Trackio. Nothing leaves the machine unless a Space is named.

    A stage of a training is one run; a training that goes on after a stop goes on in the same run. The database lies
    where ``TRACKIO_DIR`` says (default: ``trackio`` in Hugging Face's cache folder); ``trackio show`` opens it.

    Args:
        save_dir: the stage's folder; the last two parts of its path are the run's name.
        project: Trackio's project.
        space_id: a Space of the hub to send the metrics to as well; None for none.

    Raises:
        ValueError: Trackio is not installed.
    """

    def __init__(
        self, save_dir: str | Path, project: str = "embedspace", space_id: str | None = None
    ) -> None:
        super().__init__()
        if find_spec("trackio") is None:
            raise ValueError(
                f"logger=trackio needs Trackio: {pip_install('trackio')}. logger=files needs nothing more"
            )
        self._project, self._space_id = project, space_id
        self._run_name = "/".join(Path(save_dir).resolve().parts[-2:])
        self._run: Any = None
        self._parameters: dict[str, Any] = {}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run, which begins with its first metrics."""
        if self._run is None:
            import trackio

            self._run = trackio.init(
                project=self._project,
                name=self._run_name,
                space_id=self._space_id,
                config=self._parameters,
                resume="allow",
                embed=False,
                auto_log_cpu=False,
            )
        return self._run

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str:
        """The run's name."""
        return self._run_name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Metrics of a step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings, which the dashboard shows beside a run that begins afterwards."""
        self._parameters |= vars(params) if isinstance(params, Namespace) else params

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left; a run without metrics was never begun."""
        if self._run is not None:
            self._run.finish()
            self._run = None
