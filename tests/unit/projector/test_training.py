"""The reader of soft tokens, the scores, and the stages of training, in this process."""

import lightning
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from embedspace import EmbeddingSpace, Projector
from embedspace.engines import TransformersEngine
from embedspace.projector import INSTRUCTION, ProjectorConfig, SentenceEncoder, SoftTokenReader, insert
from embedspace.projector.batches import Batch
from embedspace.projector.datamodule import SentenceData
from embedspace.projector.evaluation import CONDITIONS, ConditionScores, nll_per_token, score_conditions
from embedspace.projector.sources import Sentence
from embedspace.projector.training import ProjectorTraining, lexical_loss, part_means
from tests.checkpoints import make_tiny_checkpoint
from train import projector as command

SENTENCES = [
    "The train to Oslo leaves at noon.",
    "My sister keeps three green parrots.",
    "a narrow boat pushed along with a pole",
    "It rained for nine days.",
    "Bread is made of flour and water.",
    "He sold the old piano.",
    "Two wolves crossed the frozen river.",
    "the sound of dry leaves",
]


@pytest.fixture(scope="module")
def engine(smollm2):
    return TransformersEngine(smollm2, dtype="float32")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


def projector_for(space, head="mlp", tokens=4, **options):
    encoder = SentenceEncoder()
    torch.manual_seed(0)
    return Projector(
        ProjectorConfig(
            head, tokens, 384, space.hidden_size, encoder.name, encoder.fingerprint, space.name, space.fingerprint,
            options,
        ),
        space,
    )  # fmt: skip


def batch_of(space, texts=SENTENCES):
    return Batch(SentenceEncoder().encode(texts), [space.tokenize(text) for text in texts], texts, 0)


def test_the_reader_agrees_with_the_engine_on_the_whole_prompt(engine, smollm2):
    """One batch behind a cached prefix, against one prompt at a time without any cache."""
    projector = projector_for(smollm2, width=16).eval()
    reader = SoftTokenReader(engine)
    batch = batch_of(smollm2)
    with torch.inference_mode():
        nats = reader.nll(projector(batch.vectors), batch.ids)
    chat = smollm2.embed_chat([{"role": "user", "content": INSTRUCTION}])
    for found, text in zip(nats, SENTENCES, strict=True):
        prompt = insert(chat, projector.project(text, smollm2))
        torch.testing.assert_close(found, -engine.score(prompt, text).sum(), atol=2e-3, rtol=1e-4)


def test_the_text_and_nothing_are_ordinary_prompts(engine, smollm2):
    reader = SoftTokenReader(engine)
    text = SENTENCES[0]
    found = nll_per_token(reader, [reader.text_rows(text), torch.empty(0, 576)], [text, text])
    for value, content in zip(found, (f"{INSTRUCTION} {text}", INSTRUCTION), strict=True):
        expected = -engine.score(smollm2.chat_ids([{"role": "user", "content": content}]), text).mean()
        assert value == pytest.approx(float(expected), abs=1e-3)
    assert found[0] < 1.0 < found[1]


def test_the_gradient_reaches_the_soft_tokens_alone(engine):
    soft = torch.randn(2, 3, 576, requires_grad=True)
    ids = [engine.space.tokenize(text) for text in SENTENCES[:2]]
    SoftTokenReader(engine).nll(soft, ids).sum().backward()
    assert bool(soft.grad.abs().sum(dim=(1, 2)).gt(0).all())
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def test_a_sentence_costs_the_same_in_any_batch(engine):
    soft = torch.randn(8, 3, 576)
    reader = SoftTokenReader(engine)
    alone = nll_per_token(reader, list(soft), SENTENCES, batch_size=1)
    assert nll_per_token(reader, list(soft), SENTENCES, batch_size=8) == pytest.approx(alone, abs=1e-3)


def test_soft_tokens_of_any_number_stand_side_by_side(engine):
    soft = [torch.randn(count, 576) for count in (0, 5, 1, 9, 2, 0, 3, 8)]
    reader = SoftTokenReader(engine)
    ids = [engine.space.tokenize(text) for text in SENTENCES]
    alone = torch.cat([reader.nll([own], [sentence]) for own, sentence in zip(soft, ids, strict=True)])
    torch.testing.assert_close(reader.nll(soft, ids), alone, atol=2e-3, rtol=1e-4)


def test_the_scores_have_every_control_and_shuffles_no_sentence_onto_itself(engine):
    soft = torch.stack([SoftTokenReader(engine).text_rows(text)[:4].float() for text in SENTENCES])
    scores = score_conditions(engine, soft, SENTENCES)
    assert set(scores.nll) == set(CONDITIONS)
    assert scores.mean("text") < scores.mean("own") < scores.mean("shuffled")
    moved = score_conditions(engine, soft.roll(1, dims=0), SENTENCES)
    assert moved.nll["own"] == pytest.approx(scores.nll["shuffled"], abs=1e-3)


@pytest.mark.parametrize(
    ("nothing", "shuffled", "better", "share"), [(5.0, 6.0, "nothing", 0.75), (6.0, 5.0, "shuffled", 0.75)]
)
def test_the_share_is_of_the_gap_to_the_better_control(nothing, shuffled, better, share):
    values = {"nothing": nothing, "shuffled": shuffled, "own": 2.0, "mean row": 7.0, "text": 1.0}
    scores = ConditionScores({name: (value, value) for name, value in values.items()})
    assert scores.better_control == better
    assert scores.gap_closed().estimate == pytest.approx(share)
    assert scores.gap_closed("nothing").estimate == pytest.approx((nothing - 2) / (nothing - 1))


def test_scoring_needs_soft_tokens_for_each_of_several_sentences(engine):
    with pytest.raises(ValueError, match="got 1 for 2"):
        score_conditions(engine, torch.randn(1, 2, 576), SENTENCES[:2])


def test_the_parts_of_a_sentence_are_all_of_it(smollm2):
    ids = smollm2.tokenize(SENTENCES[0])
    rows = smollm2.lookup(ids).float() - smollm2.mean
    torch.testing.assert_close(part_means(smollm2, ids, len(ids)), rows)
    torch.testing.assert_close(part_means(smollm2, ids, 1)[0], rows.mean(dim=0))
    assert part_means(smollm2, ids[:2], 5).isfinite().all(), "more parts than tokens"


def test_the_lexical_loss_is_least_for_the_words_of_the_sentence(smollm2):
    projector = projector_for(smollm2, "lexical", candidates=3, query_width=8, width=64, layers=1)
    words = [smollm2.tokenize(word)[0] for word in (" wolves", " river", " piano")]
    projector.head.choose_from(torch.tensor(words))
    projector.attach()
    batch = batch_of(smollm2, ["Two wolves crossed the frozen river."])
    losses = []
    for favoured in ([0, 1], [0, 2]):
        projector.head.scores = lambda vectors, favoured=favoured: (
            F.one_hot(torch.tensor(favoured), 3).sum(0)[None] * 20.0
        )
        losses.append(
            float(lexical_loss(projector.head, batch, smollm2, {word: n for n, word in enumerate(words)}))
        )
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[1] > 5


@pytest.mark.slow
def test_distillation_drives_the_loss_on_eight_sentences_to_nearly_nothing(engine, smollm2):
    torch.manual_seed(0)
    module = ProjectorTraining(projector_for(smollm2, width=256), "distill", smollm2, engine)
    optimiser = torch.optim.Adam(module.projector.parameters(), lr=4e-3)
    batch = batch_of(smollm2)
    for _ in range(90):
        optimiser.zero_grad()
        loss = module._loss(batch, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.projector.parameters(), 1.0)
        optimiser.step()
        if loss.item() < 0.05:
            break
    assert loss.item() < 0.1


def made_data(space):
    animals = ["whale", "horse", "tiger", "eagle", "otter"]
    found = [
        Sentence(f"the {animals[n % 5]} number {n} slept near the bridge", "made", str(n)) for n in range(200)
    ]
    return SentenceData(
        [found], encoder=SentenceEncoder(), space=space, batch_size=16, max_tokens=400, min_tokens=1
    )


@pytest.mark.parametrize("head", ["linear", "mlp", "lexical"])
@pytest.mark.parametrize("stage", ["reconstruct", "distill"])
def test_every_head_learns_in_every_stage(tiny, head, stage, tmp_path):
    data = made_data(tiny)
    options = {"lexical": {"candidates": 20, "query_width": 16, "width": 64, "layers": 1}}.get(head, {})
    projector = projector_for(tiny, head, **options)
    if head == "lexical":
        words = {i for n in (0, 1, 2) for i in tiny.tokenize(f" the whale number {n} slept near the bridge")}
        projector.head.choose_from(torch.tensor((sorted(words) + list(range(20)))[:20]))
    before = {name: tensor.clone() for name, tensor in projector.head.state_dict().items()}
    engine = TransformersEngine(tiny, dtype="float32") if stage == "distill" else None
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    module = ProjectorTraining(
        projector, stage, tiny, engine, warmup=1, learning_rate=3e-3, teacher_weight=0.5
    )
    first = float(trainer.validate(module, data, verbose=False)[0]["val/loss"])
    trainer.fit(module, data)
    assert float(trainer.validate(module, data, verbose=False)[0]["val/loss"]) < first
    moved = {
        name.split(".")[0]
        for name, old in before.items()
        if not torch.equal(old, projector.head.state_dict()[name])
    }
    expected = {
        ("lexical", "reconstruct"): {"query", "bias"},
        ("lexical", "distill"): {"row_in", "sentence_in", "body", "row_out"},
    }
    assert moved == expected.get((head, stage), {"body"})


def test_a_training_takes_batches_of_the_callers_own(tiny, tmp_path):
    data = made_data(tiny)
    data.setup()
    module = ProjectorTraining(projector_for(tiny), "reconstruct", tiny)
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data.train_dataloader())
    assert trainer.global_step == 2


@pytest.mark.parametrize("stage", ["reconstruct", "distill"])
def test_a_training_on_vectors_that_are_not_finite_is_refused(tiny, tmp_path, stage):
    data = made_data(tiny)
    data.setup()
    data.vectors["train"][0, 0] = float("nan")
    engine = TransformersEngine(tiny, dtype="float32") if stage == "distill" else None
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    with pytest.raises(ValueError, match="NaN or infinity in 1 of them"):
        trainer.fit(ProjectorTraining(projector_for(tiny), stage, tiny, engine), data)


def test_a_stage_that_cannot_be_is_refused(tiny, smollm2):
    projector = projector_for(tiny)
    for arguments, reported in (
        ((projector, "both", tiny), "'reconstruct' or 'distill'"),
        ((projector, "distill", tiny), "give an engine of the projector's own space"),
        ((projector, "reconstruct", smollm2), "gives soft tokens for"),
        ((projector_for(tiny, "ridge"), "reconstruct", tiny), "closed form"),
    ):
        with pytest.raises(ValueError, match=reported):
            ProjectorTraining(*arguments)


def test_a_device_without_memory_left_is_told_with_what_to_lower(monkeypatch, tmp_path):
    def train(config, folder):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has 1 GiB free.")

    monkeypatch.setattr(command, "train", train)
    monkeypatch.setattr(command, "folder_of", lambda config: tmp_path)
    with pytest.raises(command.TrainingFailed) as reported:
        command.main.__wrapped__(OmegaConf.create({}))
    for word in (
        "distill.batch_size",
        "accumulate_grad_batches",
        "data.max_tokens",
        "Tried to allocate 2 GiB",
    ):
        assert word in str(reported.value)
    assert "\n" not in str(reported.value)


def test_a_training_that_began_from_another_records_both(tiny):
    data = made_data(tiny)
    data.sentences["train"] = [Sentence("the whale slept near the bridge", "made", "0")]
    projector = projector_for(tiny)
    values = {"seed": 1, "test": {"kinds": {}}}
    first = command.training_record(projector, data, values)
    assert first == {"sentences": {"made": 1}, "left_out": {}, "config": {"seed": 1}}
    projector.describe(training=first)
    assert command.training_record(projector, data, {"seed": 2}) == {
        **first,
        "config": {"seed": 2},
        "before": first,
    }
