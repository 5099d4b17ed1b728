"""The benchmark page states what was measured, and the measuring itself is sound."""

import subprocess
from pathlib import Path

import pytest

from embedspace.engines import TransformersEngine
from embedspace.metrics import Interval
from experiments.benchmarks import projector_training
from experiments.benchmarks.cold_start import fresh_process
from experiments.benchmarks.experiment import PARTS, Benchmark
from experiments.benchmarks.measurement import Measurement, rate
from experiments.benchmarks.report import section, updated


def test_a_fresh_process_is_timed_with_its_own_peak_memory():
    _, small = fresh_process("pass")
    _, large = fresh_process("x = b'1' * 200_000_000")
    assert large - small == pytest.approx(200, rel=0.1)


def test_a_process_that_fails_is_an_error_and_not_a_time():
    with pytest.raises(subprocess.CalledProcessError):
        fresh_process("raise SystemExit(3)")


def test_a_rate_counts_calls():
    calls = []
    per_second = rate(lambda: calls.append(1), least=0.01)
    assert per_second > 0
    assert len(calls) > 1


ORIGIN = {
    "machine": {"cores": 2, "processor": "a processor", "memory_gib": 24.0},
    "packages": {"torch": "2.13.0"},
    "git": {"commit": "0123456789abcdef", "dirty": False},
}
ROW = Measurement("x", Interval(0.5, 0.4, 0.6, 7), "at most 1", "1 s against 2 s")
TITLES = {name: part.title for name, part in PARTS.items()}


def measured_page(page, **rows):
    return updated(
        page, TITLES, {part: section(part, [row], ORIGIN, "a-model") for part, row in rows.items()}
    )


def test_a_section_names_machine_versions_commit_and_part():
    page = measured_page("", wire=ROW)
    for word in ("a processor", "torch 2.13.0", "0123456789ab", "`wire`", "a-model", "0.50 (0.40 to 0.60)"):
        assert word in page


def test_a_part_measured_anew_leaves_the_other_sections_as_they_are():
    first = measured_page("", transforms=ROW, wire=ROW)
    faster = Measurement("x", Interval(0.3, 0.2, 0.4, 7), "at most 1", "1 s against 3 s")
    second = measured_page(first, wire=faster)
    assert second == measured_page("", wire=faster, transforms=ROW)
    assert second.count("## ") == 2
    assert second.index("0.30 (0.20 to 0.40)") < second.index("0.50 (0.40 to 0.60)")
    assert measured_page(second) == second


def test_the_page_of_docs_is_one_that_parts_can_be_put_into():
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text()
    assert measured_page(page) == page


def test_a_part_that_does_not_exist_is_refused_before_anything_is_measured(tmp_path):
    benchmark = Benchmark(
        "a-model", 1, 1, 1, 1, "a filter", 500, str(tmp_path / "page.md"), ["wire", "wires"]
    )
    with pytest.raises(ValueError, match="parts names wires; there are cold_start, wire"):
        benchmark.run(tmp_path)


def test_both_sides_of_the_wire_benchmark_do_the_same_work():
    import torch

    from embedspace import decode_prompt_embeds
    from experiments.benchmarks.wire import plain_decode, plain_encode

    vectors = torch.randn(3, 5)
    assert torch.equal(decode_prompt_embeds(plain_encode(vectors)), vectors)
    assert torch.equal(plain_decode(plain_encode(vectors)), vectors)


def test_the_prefixes_of_the_benchmark_are_long_enough_and_share_only_the_template(smollm2):
    from experiments.benchmarks.prefix import ROWS, prompts_after

    first, second = (prompts_after(smollm2, seed).prefix for seed in (1, 2))
    assert len(first) >= ROWS
    same = (first.vectors[:ROWS] == second.vectors[:ROWS]).all(dim=1)
    assert int((~same).nonzero()[0]) < 10


def test_the_gain_of_a_known_prefix_is_the_ratio_of_the_medians_that_are_shown():
    from experiments.benchmarks.prefix import Round, sooner

    row = sooner("first token", [Round(4.0, 0.5), Round(6.0, 1.0)])
    assert row.ratio.estimate == pytest.approx(5.0 / 0.75)
    assert row.ratio.values == (6.0, 8.0)
    assert "5.00 s cold, 0.75 s warm" in row.detail


def test_both_sides_of_a_linear_transform_give_the_same_rows(smollm2):
    import torch

    from experiments.benchmarks.transforms import HIDDEN, comparisons, widened

    space = widened(smollm2, HIDDEN[1])
    assert space.hidden_size == HIDDEN[1]
    for comparison in comparisons(space, 32):
        if comparison.linear:
            own, plain = comparison.own().vectors.float(), comparison.plain().float()
            assert own.shape == plain.shape, comparison.name
            assert torch.allclose(own, plain, atol=0.05), comparison.name


def test_what_compression_buys_counts_the_time_it_takes():
    from experiments.benchmarks.compressed import RATIOS, Served, gains

    rounds = [{ratio: Served(0.1, 2.0 / ratio, 10 * ratio) for ratio in RATIOS} for _ in range(3)]
    first_token, throughput = list(gains(rounds))[:2]
    assert first_token.ratio.estimate == pytest.approx((0.1 + 1.0) / 2.0)
    assert throughput.ratio.estimate == pytest.approx(2.0)


def test_the_prompts_of_the_compression_benchmark_have_their_rows_and_begin_unlike(smollm2):
    from experiments.benchmarks.compressed import ROWS, passages

    prompts = passages(smollm2, 0) + passages(smollm2, 1)
    assert {len(prompt) for prompt in prompts} == {ROWS}
    assert len({str(prompt.vectors[:3].tolist()) for prompt in prompts}) == len(prompts)


def test_speed_on_a_gpu_is_left_open_where_there_is_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a GPU"):
        list(projector_training.projector_gpu("smollm2-135m-instruct", 1))


def test_the_share_of_the_matrix_bound_counts_the_rows_that_go_through_the_model(smollm2, monkeypatch):
    """With a matrix product that takes as long as the training, the share is the ratio of the operations."""
    engine = TransformersEngine(smollm2, dtype="float32")
    rows = []
    engine.model.base_model.layers[0].register_forward_pre_hook(
        lambda module, args, named: rows.append((args or (named["hidden_states"],))[0].shape[:2].numel()),
        with_kwargs=True,
    )
    monkeypatch.setattr(projector_training, "GPU_STEPS", 2)
    monkeypatch.setattr(projector_training, "GPU_MATRIX", 64)
    monkeypatch.setattr(projector_training, "in_turn", lambda own, other, rounds: [own() or (1.0, 1.0)])
    made = projector_training.new_projector(engine, "lexical")
    rows.clear()
    found = projector_training.training_on_gpu(engine, made, 1, 1, "not compiled")
    fed = sum(rows[-2:])  # one sentence a step has no padding
    matrices = sum(p.numel() for p in engine.model.base_model.layers.parameters() if p.ndim == 2)
    tokens = sum(len(engine.space.tokenize(text)) for text in projector_training.sentences(2))
    work = 4 * (fed * matrices + tokens * engine.model.get_output_embeddings().weight.numel())
    assert found.ratio.estimate == pytest.approx(work / (20 * 2 * 64**3))
    assert f"{fed:,} rows a second" in found.detail
