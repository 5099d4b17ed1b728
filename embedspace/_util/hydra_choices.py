"""What configurations can ask for.

``${chosen:experiment}`` is the option of a Hydra config group, also before a sweep's jobs exist;
``${chosen_unless:size,full}`` is ``-small`` with the option ``small``, and nothing with ``full``;
``${first:${data.questions},4}`` is the beginning of a list.
"""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf


def _chosen(group: str, *, _root_: DictConfig) -> str:
    # A sweep's folder is resolved before Hydra knows a job, and a job's configuration has no node of Hydra's.
    choices = OmegaConf.select(_root_, "hydra.runtime.choices") or HydraConfig.get().runtime.choices
    return str(choices[group])


def _chosen_unless(group: str, usual: str, *, _root_: DictConfig) -> str:
    option = _chosen(group, _root_=_root_)
    return "" if option == usual else f"-{option}"


def _first(values: ListConfig, count: int) -> list[Any]:
    plain = OmegaConf.to_container(values, resolve=True)  # the records of a list have to be plain as well
    assert isinstance(plain, list)
    return plain[:count]


OmegaConf.register_new_resolver("chosen", _chosen, replace=True)
OmegaConf.register_new_resolver("chosen_unless", _chosen_unless, replace=True)
OmegaConf.register_new_resolver("first", _first, replace=True)
