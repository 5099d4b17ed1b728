"""Every configuration composes, and every experiment in them can be built from it."""

import json
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, get_method, instantiate
from omegaconf import OmegaConf

import train.projector  # noqa: F401  adds the shared groups to the search path of trainings
from embedspace import EmbeddingSpace
from experiments.run import checked
from tests.checkpoints import make_tiny_checkpoint
from tests.unit.space.templates import REASONING

CONFIGS = Path(__file__).parents[2] / "configs"
TRAIN = CONFIGS / "train"


def names(group, root=CONFIGS):
    return sorted(path.stem for path in (root / group).glob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return compose("run", overrides=[*overrides], return_hydra_config=False)


@pytest.mark.parametrize("data", names("data"))
@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_is_built_from_every_data_set(experiment, data):
    needed = {
        "embed_corpus": ["experiment.source=texts.jsonl"],
        "generate_corpus": ["experiment.corpus=corpus"],
    }
    config = composed(f"experiment={experiment}", f"data={data}", *needed.get(experiment, []), "out=unused")
    checked(config)
    assert instantiate(config.experiment) is not None
    assert instantiate(config.sampling).max_tokens >= 1


ONE_SIZE = {"embed_corpus", "generate_corpus", "safety", "safety_filter"}
"""Their size is that of the texts that they are given or made of."""


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize("experiment", [name for name in names("experiment") if name not in ONE_SIZE])
def test_every_experiment_has_a_smaller_size_that_changes_values_and_adds_no_settings(experiment, size):
    whole, smaller = (
        composed(f"experiment={experiment}", f"size={each}", "out=unused") for each in ("full", size)
    )
    assert smaller.size == size
    assert smaller.experiment != whole.experiment
    changed = OmegaConf.to_container(smaller.experiment)
    assert set(changed) == set(OmegaConf.to_container(whole.experiment))
    for group in ("ways", "attackers", "parts", "style"):
        if isinstance(changed.get(group), dict):
            assert set(changed[group]) == set(OmegaConf.to_container(whole.experiment)[group])
    assert instantiate(smaller.experiment) is not None
    assert json.loads(json.dumps(checked(smaller)))["size"] == size


@pytest.mark.parametrize("experiment", sorted(ONE_SIZE))
def test_where_there_is_one_size_another_is_refused_and_those_with_sizes_are_named(experiment):
    with pytest.raises(ValueError, match=r"one size, full.*attacks, baseline.*style"):
        checked(composed(f"experiment={experiment}", "size=small", "out=unused"))


@pytest.mark.parametrize("experiment", ["baseline", "interpolation"])
def test_a_smaller_size_has_fewer_cases(experiment, smollm2):
    counts = [
        sum(
            1
            for _ in instantiate(composed(f"experiment={experiment}", f"size={size}").experiment).cases(
                smollm2
            )
        )
        for size in ("small", "medium", "full")
    ]
    assert counts == sorted(set(counts))


def test_values_that_are_given_win_over_those_of_a_size():
    config = composed("experiment=style", "size=small", "experiment.asked_questions=7", "out=unused")
    assert config.experiment.asked_questions == 7


@pytest.mark.parametrize("experiment", ["attacks", "benchmark", "leakage", "safety", "soak"])
def test_a_page_is_written_into_the_run_s_folder_unless_another_is_named(experiment):
    built = instantiate(composed(f"experiment={experiment}", "out=some/where").experiment)
    assert built.page == "some/where/page.md"
    assert getattr(built, "card", None) is None


@pytest.mark.parametrize("passages", names("data/passages"))
def test_compression_is_built_from_all_passages(passages):
    built = instantiate(
        composed("experiment=compression", f"data/passages={passages}", "out=unused").experiment
    )
    assert all({"text", "question", "answer"} <= set(item) for item in built.items)


@pytest.mark.parametrize("knowledge", names("data/knowledge"))
def test_retrieval_is_built_from_all_knowledge(knowledge):
    built = instantiate(composed("experiment=rag", f"data/knowledge={knowledge}", "out=unused").experiment)
    assert max(built.counts) <= len(built.knowledge.passages)


def test_the_projector_s_experiment_is_built_from_the_short_sentences():
    built = instantiate(composed("experiment=projector", "data/sentences=short", "out=unused").experiment)
    assert {len(sentences) for sentences in built.kinds.values()} == {built.candidates}


@pytest.mark.parametrize("style", names("data/style"))
def test_a_style_experiment_is_built_for_every_style(style):
    built = instantiate(composed("experiment=style", f"data/style={style}", "out=unused").experiment)
    assert not {text for pair in built.judge for text in pair} & {*built.positive, *built.negative}


@pytest.mark.parametrize("engine", names("engine"))
def test_every_engine_names_a_class_and_arguments_that_it_has(engine):
    config = composed(f"engine={engine}", "out=unused").engine
    if engine == "vllm":
        assert OmegaConf.is_missing(config, "url")
        config.url = "http://127.0.0.1:9"
    target = get_class(config._target_)
    arguments = set(config) - {"_target_"}
    assert arguments <= set(target.__init__.__annotations__)


@pytest.mark.parametrize("model", names("model"))
def test_every_model_is_a_name_for_the_same_call(model):
    config = composed(f"model={model}", "out=unused").model
    assert get_method(config._target_).__name__ == "from_pretrained"
    assert config.name


def test_the_packaged_model_is_built_from_its_configuration(smollm2):
    assert instantiate(composed("model=smollm2", "out=unused").model).fingerprint == smollm2.fingerprint


@pytest.mark.parametrize(
    "given", ["+model.template={enable_thinking: false}", "+model.template.enable_thinking=false"]
)
def test_variables_of_the_chat_template_can_be_given_to_a_run(tmp_path, given):
    folder = make_tiny_checkpoint(tmp_path, layers=1, chat_template=REASONING)
    space = instantiate(composed("model=qwen", f"model.name={folder}", given, "out=unused").model)
    question = [{"role": "user", "content": "Is it warm?"}]
    recipe = space.embed_chat(question).recipe
    assert dict(recipe.parameters)["template"] == '{"enable_thinking": false}'
    plain = EmbeddingSpace.from_pretrained(folder)
    assert space.chat_ids(question) == plain.chat_ids(question, template={"enable_thinking": False})


def test_no_configuration_holds_a_secret():
    for path in CONFIGS.rglob("*.yaml"):
        assert not re.search(r"oc\.env:\w*(KEY|TOKEN|SECRET)", path.read_text()), (
            f"{path} would write it into run.json"
        )


def trained(*overrides):
    with initialize_config_dir(str(TRAIN), version_base=None):
        return compose("train", overrides=[*overrides, "out=unused"], return_hydra_config=False)


@pytest.mark.parametrize("head", names("projector", TRAIN))
def test_every_projector_is_a_head_with_its_sizes(head):
    from embedspace.projector import ProjectorConfig

    config = trained(f"projector={head}").projector
    built = ProjectorConfig(config.head, config.tokens, 4, 4, "e", "e", "s", "s", dict(config.options))
    assert built.head == head


@pytest.mark.parametrize("trainer", names("trainer", TRAIN))
def test_every_trainer_names_arguments_that_lightning_has(trainer):
    import inspect

    from lightning import Trainer

    config = trained(f"trainer={trainer}").trainer
    assert get_class(config.lightning._target_) is Trainer
    assert set(config.lightning) - {"_target_"} <= set(inspect.signature(Trainer).parameters)


@pytest.mark.parametrize("debug", names("debug", TRAIN))
@pytest.mark.parametrize("logger", names("logger", TRAIN))
def test_every_debugging_and_logging_configuration_composes(debug, logger):
    assert trained(f"debug={debug}", f"logger={logger}").logger


def test_the_command_for_the_shipped_weights_is_the_training_that_they_record():
    from embedspace.projector.weights_file import SHIPPED

    with initialize_config_dir(str(TRAIN), version_base=None):
        config = OmegaConf.to_container(compose("minilm-to-smollm2"), resolve=True)
    shipped = json.loads((SHIPPED / "minilm-to-smollm2" / "config.json").read_text())
    recorded = shipped["training"]["config"]
    for name in ("model", "projector", "data", "seed", "stages", "from", "reconstruct", "distill"):
        assert config[name] == recorded[name], name
    assert {f"test: {kind}" for kind in config["test"]["kinds"]} <= shipped["metrics"].keys()


@pytest.mark.parametrize("model", names("model"))
def test_trainings_share_the_models_and_launchers_of_experiments(model):
    config = trained(f"model={model}", "launcher=local", "+data/sentences@test=short")
    assert config.model == composed(f"model={model}", "out=unused").model
    assert config.test.kinds


@pytest.mark.parametrize("callbacks", names("callbacks", TRAIN))
def test_every_callback_is_built(callbacks):
    from lightning import Callback

    built = [
        instantiate(callback, **({"dirpath": "."} if name == "checkpoint" else {}))
        for name, callback in trained(f"callbacks={callbacks}").callbacks.items()
    ]
    assert built
    assert all(isinstance(callback, Callback) for callback in built)


@pytest.mark.parametrize("data", names("data", TRAIN))
def test_the_data_of_training_name_functions_that_exist(data):
    config = trained(f"data={data}").data
    assert get_class(config._target_).__name__ == "SentenceData"
    assert all(callable(get_method(source._target_)) for source in config.sources)
    assert all(limit is None or limit >= 1 for limit in config.limits.values())
