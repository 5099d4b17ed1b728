"""The filter refuses what it says it refuses, keeps its false-positive rate, and fails closed."""

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.stats import beta

from embedspace import PromptEmbeds, Recipe, SafetyFilter, StyleVector, interpolate
from embedspace.safety import (
    Finding,
    LayerName,
    Manifold,
    Reading,
    conformal_threshold,
    guard_model,
    measures,
    window_means,
)
from embedspace.safety.reading import WINDOW, window_ranges
from embedspace.space import nearest_tokens
from tests.unit.safety.texts import ATTACK, BENIGN, SAFE, UNSAFE

CHEAP = ["structural", "manifold", "pooled", "references", "ngrams"]
MADE = Recipe.of("made", {"by": "test"})


@pytest.fixture(scope="module")
def guard(smollm2):
    return SafetyFilter.fit(smollm2, SAFE, UNSAFE, layers=CHEAP).calibrate(BENIGN, 0.05)


@pytest.fixture(scope="module")
def whole(smollm2):
    """With the sentence encoders."""
    return SafetyFilter.fit(smollm2, SAFE, UNSAFE, layers=get_args(LayerName)).calibrate(BENIGN, 0.05)


def of_rows(space, rows):
    return PromptEmbeds(rows, torch.ones(len(rows)).bool(), space.fingerprint, MADE)


def test_an_attack_is_refused_and_a_question_allowed(whole):
    refused, allowed = whole.check(ATTACK), whole.check("What should I know about owls?")
    assert not refused.allowed
    assert refused.score > refused.threshold
    assert allowed.allowed
    assert ATTACK not in refused.reason


def test_text_rows_and_prompt_get_the_same_verdict(guard, smollm2):
    prompt = smollm2.embed(ATTACK)
    verdicts = {
        guard.check(ATTACK),
        guard.check(prompt),
        guard.check(prompt.vectors),
        guard.check(prompt.to(torch.float32)),
    }
    assert len(verdicts) == 1


def test_many_prompts_get_the_verdicts_that_each_gets_alone(whole, smollm2):
    prompts = [*BENIGN[:3], ATTACK, smollm2.embed(UNSAFE[1]), torch.zeros(2, 3), *SAFE]
    together, alone = whole.check_many(prompts), [whole.check(prompt) for prompt in prompts]
    assert [verdict.allowed for verdict in together] == [verdict.allowed for verdict in alone]
    assert [verdict.score for verdict in together] == pytest.approx(
        [verdict.score for verdict in alone], abs=1e-5
    )
    assert whole.check_many([]) == []


def test_stopping_early_never_changes_the_answer(whole):
    for text in [*SAFE, *UNSAFE, *BENIGN, ATTACK]:
        verdict, score = whole.check(text), whole.score(text)
        assert verdict.allowed == (score <= whole.threshold)
        assert verdict.score <= score + 1e-6


def test_a_line_in_a_long_document_counts(guard):
    filler = " ".join(BENIGN) * 4
    assert guard.check(filler).allowed
    for text in (f"{filler} {ATTACK}", f"{ATTACK} {filler}", f"{filler}\n{ATTACK}\n{filler}"):
        assert not guard.check(text).allowed
    start, stop = guard.explain(f"{filler} {ATTACK}").findings["ngrams"].rows
    assert stop - start <= WINDOW


def test_the_message_of_a_chat_is_judged_and_its_template_is_not(guard, smollm2):
    assert not guard.check(smollm2.embed_chat([{"role": "user", "content": ATTACK}])).allowed
    assert guard.check(smollm2.embed_chat([{"role": "user", "content": BENIGN[0]}])).allowed


@given(st.integers(0, 400), st.integers(1, 1000))
def test_windows_cover_every_row_once_or_more(start, length):
    windows = window_ranges(start, start + length)
    assert set().union(*(range(*window) for window in windows)) == set(range(start, start + length))
    assert all(stop - begin <= WINDOW for begin, stop in windows)
    assert len(windows) <= math.ceil(length / (WINDOW // 2)) + 1


# Structure


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (torch.zeros(3, 7), "shape"),
        (torch.zeros(576), "shape"),
        (torch.zeros(1, 3, 576), "shape"),
        (torch.zeros(0, 576), "at least one row"),
        (torch.zeros(3, 576, dtype=torch.int64), "int64"),
        (torch.zeros(3, 576, dtype=torch.complex64), "complex64"),
        (torch.full((3, 576), math.nan), "NaN"),
        (torch.tensor([[1.0] * 575 + [math.inf]]), "infinity"),
        (torch.ones(9000, 576), "9000 rows"),
        (torch.full((2, 576), 100.0), "norm"),
        (torch.ones(2, 576).to_sparse(), "dense"),
        (torch.ones(2, 576, device="meta"), "meta"),
    ],
)
def test_rows_that_the_server_would_take_badly_are_refused_with_the_fault(guard, rows, fault):
    verdict = guard.check(rows)
    assert not verdict.allowed
    assert verdict.score == math.inf
    assert fault in verdict.reason


# Distance from the vocabulary


def test_rows_of_the_vocabulary_are_on_the_manifold_in_every_dtype(guard, smollm2):
    prompt = smollm2.embed("The quick brown fox jumps over the lazy dog.")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert guard.explain(prompt.to(dtype)).findings["manifold"].score == 0


def test_noise_and_random_rows_stand_out(guard, smollm2):
    rows = smollm2.embed(BENIGN[0]).vectors.float()
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    verdict = guard.check(of_rows(smollm2, rows + 0.05 * noise))
    assert not verdict.allowed
    assert "manifold" in verdict.reason
    assert not guard.check(of_rows(smollm2, noise * 0.13)).allowed


def test_what_a_deployment_declares_is_allowed_and_more_is_not(guard, smollm2):
    style = StyleVector.fit(smollm2, SAFE[:4], SAFE[4:])
    shifted = [style.apply(smollm2.embed(text), alpha=1.0) for text in BENIGN]
    assert not guard.check(shifted[0]).allowed
    declared = guard.with_transforms(shifted[:10])
    assert all(verdict.allowed for verdict in declared.check_many(shifted[10:]))
    assert not declared.check(style.apply(smollm2.embed(BENIGN[12]), alpha=3.0)).allowed
    assert not declared.check(style.apply(smollm2.embed(ATTACK), alpha=1.0)).allowed, (
        "a shifted attack still reads so"
    )


def test_blends_can_be_declared_too(guard, smollm2):
    blends = [interpolate(smollm2.embed(a), smollm2.embed(b), 0.3) for a, b in itertools.pairwise(BENIGN)]
    layer = Manifold.fit([Reading.of(smollm2, blend) for blend in blends[:10]])
    assert layer.score(Reading.of(smollm2, blends[0])).score == 0


def test_the_distance_has_the_gradient_of_its_own_value(guard, smollm2):
    layer = next(layer for layer in guard.layers if layer.name == "manifold")

    def ratio(rows):
        return (measures(smollm2, rows, nearest_tokens(smollm2, rows.detach())) / layer.allowed).max()

    rows = (smollm2.embed(BENIGN[0]).vectors.float() + 0.2).requires_grad_()
    distance = ratio(rows)
    distance.backward()
    step = 1e-2 * rows.grad / rows.grad.norm()
    with torch.no_grad():
        change = ratio(rows + step) - ratio(rows - step)
    assert float(change) == pytest.approx(2e-2 * float(rows.grad.norm()), rel=0.05)
    assert float(distance) > 1


def test_the_pooled_head_is_one_function_with_and_without_a_gradient(guard, smollm2):
    layer = next(layer for layer in guard.layers if layer.name == "pooled")
    rows = smollm2.embed(ATTACK).vectors.float().requires_grad_()
    logit = layer.logits(window_means(smollm2, rows, window_ranges(0, len(rows)))).max()
    logit.backward()
    assert float(logit.sigmoid()) == pytest.approx(layer.score(Reading.of(smollm2, ATTACK)).score, abs=1e-5)
    assert float(rows.grad.norm()) > 0


# Calibration


@given(st.integers(20, 300), st.sampled_from([0.05, 0.1, 0.5]))
def test_the_threshold_is_the_conformal_order_statistic(count, rate):
    scores = np.random.default_rng(count).permutation(count).astype(float)
    threshold, calibration = conformal_threshold(list(scores), rate)
    above = int((scores > threshold).sum())
    # A new score falls above the threshold with probability (above + 1) / (count + 1) under exchangeability.
    assert (above + 1) / (count + 1) <= rate + 1e-9 < (above + 2) / (count + 1)
    assert calibration.low == pytest.approx(beta.ppf(0.025, above + 1, count - above))
    assert calibration.low < (above + 1) / (count + 1) < calibration.high


def test_the_false_positive_rate_holds_over_many_draws():
    draw = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        threshold, _ = conformal_threshold(list(draw.standard_normal(199)), 0.05)
        rates.append((draw.standard_normal(500) > threshold).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.005)


def test_too_few_examples_are_an_error_that_says_how_many_are_needed(guard):
    with pytest.raises(ValueError, match="at least 99"):
        guard.calibrate(BENIGN, 0.01)
    with pytest.raises(ValueError, match="at least 1999"):
        conformal_threshold([0.0] * 1998, 0.0005)
    assert conformal_threshold([0.0] * 99, 0.01)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, math.nan])
def test_a_rate_that_is_none_is_an_error(guard, rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        guard.calibrate(BENIGN, rate)


def test_calibration_on_transforms_that_nobody_declared_says_what_to_do(guard, smollm2):
    shifted = [of_rows(smollm2, smollm2.embed(text).vectors.float() + 0.1) for text in BENIGN]
    with pytest.raises(ValueError, match="with_transforms"):
        guard.calibrate(shifted, 0.05)


def test_scores_that_are_no_numbers_are_an_error():
    with pytest.raises(ValueError, match="not numbers"):
        conformal_threshold([0.1] * 98 + [math.nan], 0.01)


def test_a_filter_without_a_threshold_judges_nothing(smollm2):
    with pytest.raises(ValueError, match="calibrate"):
        SafetyFilter.fit(smollm2, SAFE, UNSAFE, layers=["pooled"]).check("Hello")


# Failing closed


@dataclasses.dataclass(frozen=True)
class Broken:
    name: str
    answer: Exception | float
    costly: bool = False

    def scores(self, readings):
        if isinstance(self.answer, Exception):
            raise self.answer
        return [Finding(self.answer, "not in [0, 1]") for _ in readings]


@pytest.mark.parametrize("layer", get_args(LayerName))
@pytest.mark.parametrize("answer", [RuntimeError("out of memory"), math.nan, -math.inf, -0.1], ids=str)
def test_a_layer_that_fails_is_a_refusal(whole, layer, answer):
    layers = tuple(Broken(layer, answer) if each.name == layer else each for each in whole.layers)
    # Alone with its layer, so that no other one decides before it.
    broken = dataclasses.replace(whole, layers=layers, threshold=1.0)
    lone = dataclasses.replace(broken, layers=tuple(each for each in layers if isinstance(each, Broken)))
    for guard in (broken, lone):
        verdicts = guard.check_many([BENIGN[0], BENIGN[1]]) if guard is lone else [guard.check(ATTACK)]
        if guard is lone or layer in ("structural", "manifold"):
            assert not any(verdict.allowed for verdict in verdicts)
            assert all("failed" in verdict.reason and layer in verdict.reason for verdict in verdicts)


def test_a_prompt_on_which_a_layer_fails_does_not_harm_its_neighbours(guard):
    def classify(texts):
        if any("owls" in text for text in texts):
            raise ValueError("no owls")
        return [0.0] * len(texts)

    judged = guard.with_classifier("picky", classify)
    judged = dataclasses.replace(judged, threshold=0.9)
    verdicts = judged.check_many(["Tell me about owls.", *BENIGN[3:6]])
    assert [verdict.allowed for verdict in verdicts] == [False, True, True, True]
    assert "no owls" in verdicts[0].reason


# A classifier of the caller's


def test_a_classifier_reads_what_the_rows_say(guard, smollm2):
    seen = []

    def classify(texts):
        seen.extend(texts)
        return [float("banana" in text) for text in texts]

    judged = guard.with_classifier("fruit", classify)
    with pytest.raises(ValueError, match="calibrate"):
        judged.check("Hello")
    judged = judged.calibrate(BENIGN, 0.05)
    verdict = judged.check(smollm2.embed("I like a banana with my tea."))
    assert not verdict.allowed
    assert verdict.reason.startswith("fruit")
    assert "I like a banana with my tea." in seen
    with pytest.raises(ValueError, match="another name"):
        judged.with_classifier("fruit", classify)
    with pytest.raises(ValueError, match="no file can hold"):
        judged.save("unused")


@pytest.mark.parametrize("values", [[2.0], [-0.1], [math.nan], []])
def test_a_classifier_that_gives_no_probabilities_is_a_refusal(guard, values):
    judged = dataclasses.replace(guard.with_classifier("odd", lambda texts: values), threshold=0.9)
    assert not judged.check(BENIGN[0]).allowed


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from embedspace.models.names import resolve

    folder = tmp_path_factory.mktemp("guard-model")
    tokenizer = AutoTokenizer.from_pretrained(resolve("all-minilm-l6-v2"))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "BENIGN", 1: "INJECTION"},
        label2id={"BENIGN": 0, "INJECTION": 1},
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_guard_model_of_transformers_takes_part(guard, classifier_folder):
    classify = guard_model(str(classifier_folder), ["INJECTION"])
    values = classify(["hello", "ignore that"])
    assert len(values) == 2
    assert all(0 < value < 1 for value in values)
    judged = guard.with_classifier("model", classify, window=512).calibrate(BENIGN, 0.05)
    finding = judged.explain("hello").findings["model"]
    assert finding.score == pytest.approx(values[0], abs=1e-5)
    with pytest.raises(ValueError, match="BENIGN"):
        guard_model(str(classifier_folder), ["MALICIOUS"])


def test_a_guard_model_without_safetensors_is_refused(classifier_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(classifier_folder, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled.*cannot be loaded.*safetensors"):
        guard_model(str(folder), ["INJECTION"])
    with pytest.raises(ValueError, match="cannot be loaded"):
        guard_model(str(tmp_path / "absent"), ["INJECTION"])


# Explanations


def test_an_explanation_names_every_layer_the_rows_and_the_reference(whole):
    made = whole.explain(UNSAFE[2])
    assert list(made.findings) == [layer.name for layer in whole.layers]
    assert made.findings["references"].reference == "unsafe 2"
    assert made.findings["neighbours"].reference == f"unsafe example {len(SAFE) + 2}"
    assert UNSAFE[2] in made.texts["ngrams"]
    assert not made.verdict.allowed


# Bad input


def test_classes_that_are_empty_or_overlap_are_errors(smollm2):
    for safe, unsafe in (([], UNSAFE), (SAFE, []), ([], [])):
        with pytest.raises(ValueError, match="safe and unsafe prompts; got"):
            SafetyFilter.fit(smollm2, safe, unsafe)
    with pytest.raises(ValueError, match="both safe and unsafe"):
        SafetyFilter.fit(smollm2, SAFE, [*UNSAFE, SAFE[0]])
    with pytest.raises(ValueError, match="layers must be some of"):
        SafetyFilter.fit(smollm2, SAFE, UNSAFE, layers=["magic"])


def test_a_prompt_of_another_space_is_an_error(guard):
    foreign = PromptEmbeds(torch.zeros(2, 576), torch.ones(2).bool(), "elsewhere", MADE)
    with pytest.raises(ValueError, match="lives in the space elsewhere"):
        guard.check(foreign)
    with pytest.raises(TypeError, match="a list"):
        guard.check([1, 2])


# Files


def test_a_filter_survives_its_file(whole, smollm2, tmp_path):
    whole.save(tmp_path)
    again = SafetyFilter.from_pretrained(tmp_path, smollm2)
    texts = [*BENIGN, *UNSAFE, ATTACK]
    assert again.score_many(texts) == pytest.approx(whole.score_many(texts), abs=1e-6)
    assert (again.threshold, again.calibration, again.weights) == (
        whole.threshold,
        whole.calibration,
        whole.weights,
    )
    assert {path.name for path in tmp_path.iterdir()} == {"filter.json", "filter.safetensors"}


def test_a_save_that_fails_leaves_the_earlier_filter(guard, smollm2, tmp_path, monkeypatch):
    guard.save(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("No space left on device"))
        )
        with pytest.raises(OSError, match="No space"):
            dataclasses.replace(guard, threshold=0.5, layers=guard.layers[:3], weights={"pooled": 1.0}).save(
                tmp_path
            )
    assert SafetyFilter.from_pretrained(tmp_path, smollm2).threshold == guard.threshold
    assert {path.name for path in tmp_path.iterdir()} == {"filter.json", "filter.safetensors"}


def test_the_tensors_are_replaced_before_the_file_that_has_their_hash(guard, tmp_path, monkeypatch):
    replaced, replace = [], Path.replace

    def record(path, target):
        replaced.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", record)
    guard.save(tmp_path)
    assert replaced == ["filter.safetensors", "filter.json"]


def _other_space(folder):
    content = json.loads((folder / "filter.json").read_text())
    (folder / "filter.json").write_text(json.dumps(content | {"space": "elsewhere"}))


def _edited(**changes):
    def edit(folder):
        content = json.loads((folder / "filter.json").read_text())
        (folder / "filter.json").write_text(json.dumps(content | changes))

    return edit


def _cut(folder):
    path = folder / "filter.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _flipped(folder):
    path = folder / "filter.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def _other_tensors(folder):
    path = folder / "filter.safetensors"
    tensors = load_file(path)
    save_file(
        {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()},
        path,
    )
    _edited(sha256=hashlib.sha256(path.read_bytes()).hexdigest())(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_other_space, "for the space elsewhere"),
        (_cut, "damaged or cut short"),
        (_flipped, "its hash"),
        (_other_tensors, "must hold finite"),
        (_edited(format="something"), "of format 'something'"),
        (_edited(layers={"magic": {}}), "magic"),
        (_edited(weights=None), "damaged"),
        (_edited(weights={"pooled": 1.0, "ngrams": 1.0}), "sum to 1"),
        (_edited(threshold="high"), "threshold"),
        (lambda folder: (folder / "filter.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "filter.json").unlink(), "holds no filter"),
        (lambda folder: (folder / "filter.safetensors").unlink(), "missing"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(guard, smollm2, tmp_path, damage, message):
    guard.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        SafetyFilter.from_pretrained(tmp_path, smollm2)


def test_an_unknown_name_says_which_ones_there_are(smollm2):
    with pytest.raises(ValueError, match="smollm2-injection"):
        SafetyFilter.from_pretrained("no-such-filter", smollm2)
