"""Train a projector: ``python train/projector.py projector=mlp data=wordnet trainer=cpu``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from embedspace._util import hydra_choices  # noqa: F401  makes ${chosen:...} known to Hydra
from embedspace._util.extras import pip_install
from embedspace._util.run_folder import RunFolder

if TYPE_CHECKING:
    from embedspace.engines import TransformersEngine
    from embedspace.projector import Projector
    from embedspace.projector.datamodule import SentenceData

with suppress(ModuleNotFoundError):  # its plug-in is optional
    from embedspace._util import slurm_launcher  # noqa: F401  makes launcher=slurm ours

# Settings that may differ between a training and its continuation.
UNIMPORTANT = ("fresh", "logger", "callbacks", "trainer", "debug", "checkpoint_every", "patience", "test")


class SharedGroups(SearchPathPlugin):
    """Groups that trainings share with experiments (model, launcher) are found in ``configs/``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append it, after the trainings' own ``configs/train/``."""
        search_path.append("shared groups", f"file://{Path(__file__).resolve().parents[1] / 'configs'}")


Plugins.instance().register(SharedGroups)


class TrainingFailed(CompactHydraException):
    """Hydra shows its text without a traceback, continues with the other jobs of a sweep, and exits with 1."""


@hydra.main(version_base=None, config_path="../configs/train", config_name="train")
def main(config: DictConfig) -> None:
    """Train the stages in turn and save the projector."""
    from torch import OutOfMemoryError

    try:
        train(config, folder_of(config))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes from the last checkpoint")
        sys.exit(130)
    except OutOfMemoryError as error:
        raise TrainingFailed(
            "error: the device ran out of memory; lower distill.batch_size and raise "
            "trainer.lightning.accumulate_grad_batches by as much, "
            f"or lower data.max_tokens. {str(error).splitlines()[0]}"
        ) from error
    except ModuleNotFoundError as error:
        raise TrainingFailed(
            f"error: {error}; trainings need more packages: {pip_install('train')}"
        ) from error
    except (ValueError, TypeError, OSError) as error:
        raise TrainingFailed(f"error: {error}") from error


def train(config: DictConfig, folder: Path) -> Projector:
    """A training from its configuration to the saved projector, in ``folder/projector``.

    Raises:
        ValueError: the folder holds a training of another configuration, or the data or settings are not fit.
    """
    import lightning
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    if torch.device(config.trainer.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "this trainer needs a GPU that torch can use, and there is none: trainer=cpu trains without"
        )
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    # DDP starts this script once for each of its other processes.
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    with claimed(folder, values, fresh=config.fresh) if first else nullcontext():
        lightning.seed_everything(config.seed, verbose=False)
        space = instantiate(config.model)
        encoder = instantiate(config.encoder)
        data = instantiate(config.data, _partial_=True)(encoder=encoder, space=space, seed=config.seed)
        data.setup()
        projector = starting_point(config, data)
        for stage in config.stages:
            print(f"{stage}: {len(data.sentences['train'])} sentences", flush=True)
            fit(config, folder, stage, projector, data)
        projector.describe(training=training_record(projector, data, values))
        if first:
            save(projector.eval(), folder / "projector", config, data)
            print(f"projector: {folder / 'projector'}")
    return projector


def training_record(projector: Projector, data: SentenceData, values: dict[str, Any]) -> dict[str, Any]:
    """Data and configuration of this training; under ``before``, those of the projector that it began from."""
    own = {
        "sentences": dict(Counter(sentence.kind for sentence in data.sentences["train"])),
        "left_out": dict(data.left_out),
        "config": {name: value for name, value in values.items() if name != "test"},
    }
    before = dict(projector.config.training)
    return {**own, "before": before} if before else own


def save(projector: Projector, folder: Path, config: DictConfig, data: SentenceData) -> None:
    """Save the projector with its card and, where it was distilled, its metrics on sentences held out of training:
    the validation split, the examples of the card, and the kinds of ``test`` where it names any.
    """
    from embedspace.engines import TransformersEngine
    from embedspace.projector.card import EXAMPLES, card_metrics, write_card

    if "distill" in config.stages and not config.trainer.lightning.fast_dev_run:
        # Always in float32: the card's figures do not depend on the training's dtype.
        engine = TransformersEngine(data.space, dtype="float32", device=config.trainer.device)
        own = [sentence.text for sentence in data.sentences["validation"]]
        kinds = {"validation split": own, "examples of the card": EXAMPLES}
        if config.test is not None:
            held_out = instantiate(config.test.kinds, _convert_="all")
            kinds |= {f"test: {kind}": sentences for kind, sentences in held_out.items()}
        projector.cpu()
        projector.describe(
            metrics={kind: card_metrics(projector, engine, texts) for kind, texts in kinds.items()}
        )
    projector.save_pretrained(folder)
    write_card(folder, projector)


@contextmanager
def claimed(folder: Path, values: Mapping[str, Any], *, fresh: bool) -> Iterator[None]:
    """Keep other processes from writing the folder, and refuse it where it holds a training of other settings.

    Raises:
        ValueError: another process writes it, or it holds a training of another configuration.
    """
    claim = RunFolder(folder, "training", "train.json", (), ("*",), "training.lock")
    important = {name: value for name, value in values.items() if name not in UNIMPORTANT}
    with claim.lock():
        if fresh:
            claim.clear()
        known = claim.read()
        if known is not None and has_results(folder):
            claim.require_same(known, important)
        claim.write(important)
        yield


def has_results(folder: Path) -> bool:
    """Whether a training got so far that another configuration would mix with it: a checkpoint, or the projector."""
    return (folder / "projector").exists() or any(folder.glob("*/*.ckpt"))


def starting_point(config: DictConfig, data: SentenceData) -> Projector:
    """The projector that ``from`` names, or a new one."""
    from embedspace.projector import Lexical, Projector, ProjectorConfig, content_words

    if config["from"]:
        projector = Projector.from_pretrained(config["from"], space=data.space)
        projector.require_encoder(data.encoder)
        return projector
    import torch

    options = dict(config.projector.options)
    words = content_words(data.space, [sentence.text for sentence in data.sentences["train"]])
    if config.projector.head == "lexical":
        options["candidates"] = len(words)
    projector = Projector(
        ProjectorConfig(
            head=config.projector.head,
            tokens=config.projector.tokens,
            features=data.encoder.features,
            hidden_size=data.space.hidden_size,
            encoder=data.encoder.name,
            encoder_fingerprint=data.encoder.fingerprint,
            space_name=data.space.name,
            space=data.space.fingerprint,
            options=options,
        ),
        data.space,
    )
    if isinstance(projector.head, Lexical):
        projector.head.choose_from(torch.tensor(words))
    return projector


def fit(config: DictConfig, folder: Path, stage: str, projector: Projector, data: SentenceData) -> None:
    """One stage, from its last checkpoint where there is one."""
    from embedspace.projector import Ridge
    from embedspace.projector.training import ProjectorTraining, fit_ridge

    settings = dict(config[stage])
    if isinstance(projector.head, Ridge):
        if stage == "reconstruct":
            fit_ridge(projector, data)
        return
    epochs = settings.pop("epochs")
    data.start_stage(batch_size=settings.pop("batch_size"), batches=settings.pop("batches"))
    engine = frozen(config, data) if stage == "distill" else None
    module = ProjectorTraining(projector, stage, data.space, engine, **settings)  # type: ignore[arg-type]
    places = {"checkpoint": {"dirpath": folder / stage}}
    every = min(config.checkpoint_every, len(data.train_dataloader()))
    trainer = instantiate(
        config.trainer.lightning,
        max_epochs=epochs,
        val_check_interval=every,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder / stage,
        logger=[
            instantiate(logger, save_dir=str(folder / stage)) for logger in config.logger if installed(logger)
        ],
        callbacks=[
            instantiate(callback, **places.get(name, {}))
            for name, callback in config.callbacks.items()
            if callback is not None
        ],
    )
    last = folder / stage / "last.ckpt"
    trainer.fit(module, data, ckpt_path=str(last) if last.is_file() else None, weights_only=False)


def installed(logger: DictConfig) -> bool:
    """Whether a logger can be made; says so where TensorBoard's, which is on by default, cannot."""
    if not logger._target_.endswith("TensorBoardLogger") or any(
        map(find_spec, ("tensorboard", "tensorboardX"))
    ):
        return True
    print("no event files for TensorBoard: pip install tensorboardX; metrics.csv holds the same numbers")
    return False


def frozen(config: DictConfig, data: SentenceData) -> TransformersEngine:
    """The frozen language model."""
    from embedspace.engines import TransformersEngine

    engine = TransformersEngine(data.space, dtype=config.trainer.dtype, device=config.trainer.device)
    engine.model.set_attn_implementation(config.trainer.attention)
    if config.trainer.compile:
        engine.model.base_model.compile(dynamic=True)
    return engine


def folder_of(config: DictConfig) -> Path:
    """The training's folder: ``out``, or in a sweep the job's own folder."""
    job = HydraConfig.get()
    return Path(job.runtime.output_dir if job.mode == RunMode.MULTIRUN else config.out)


if __name__ == "__main__":
    main()
