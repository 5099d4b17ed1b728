"""``${chosen:experiment}``: the option of a Hydra config group, also before a sweep's jobs exist."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def _chosen(group: str, *, _root_: DictConfig) -> str:
    # A sweep's folder is resolved before Hydra knows a job, and a job's configuration has no node of Hydra's.
    choices = OmegaConf.select(_root_, "hydra.runtime.choices") or HydraConfig.get().runtime.choices
    return str(choices[group])


OmegaConf.register_new_resolver("chosen", _chosen, replace=True)
