"""The projector's training: steps per second, on a processor and on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from experiments.benchmarks.measurement import Measurement, in_turn, inverse_ratio, medians, ratio
from experiments.benchmarks.workloads import WORDS

if TYPE_CHECKING:
    from embedspace.engines import TransformersEngine
    from embedspace.projector import Projector
    from embedspace.projector.batches import BucketedBatches

TOKENS = 8
BATCHES, BATCH_SIZE = 4, 16
GPU_BATCH_SIZES, GPU_STEPS = (256, 1024), 20
GPU_MATRIX = 8192


def training(engine: TransformersEngine, made: Projector, rounds: int) -> Measurement:
    """Steps a second of a whole training loop against forward and backward through the frozen model alone."""
    from embedspace.projector import SoftTokenReader
    from embedspace.projector.batches import BucketedBatches

    texts = sentences(BATCHES * BATCH_SIZE)
    ids = [engine.space.tokenize(text) for text in texts]
    vectors = made.encode(texts)

    def batches() -> BucketedBatches:
        return BucketedBatches(vectors, ids, texts, batch_size=BATCH_SIZE, shuffle=False)

    reader = SoftTokenReader(engine)
    given = [(made(batch.vectors).detach(), batch.ids) for batch in batches()]

    def whole() -> None:
        fit_once(engine, made, batches())

    def bare() -> None:
        for rows, wanted_ids in given:
            own = rows.clone().requires_grad_()
            hidden, _, wanted = reader.hidden(own, wanted_ids)
            reader.token_losses(hidden, wanted).mean().backward()

    pairs = in_turn(whole, bare, rounds)
    own, other = medians(pairs)
    return Measurement(
        "training steps a second to those of forward and backward through the frozen model alone",
        inverse_ratio(pairs),
        "at least 0.85",
        f"{BATCHES / own:.2f} against {BATCHES / other:.2f} steps a second, {BATCH_SIZE} sentences a step, the loop's "
        "own start included",
    )


def projector_gpu(model: str, rounds: int) -> Iterator[Measurement]:
    """Training steps on a GPU in bfloat16: share of the chip's matrix products, measured in turn with them.

    Raises:
        ValueError: there is no GPU.
    """
    import torch

    from embedspace.engines import TransformersEngine

    if not torch.cuda.is_available():
        raise ValueError(
            "the part projector_gpu needs a GPU that torch can use; leave it out of experiment.parts"
        )
    engine = TransformersEngine(model, dtype="bfloat16", device="cuda")
    engine.model.set_attn_implementation("sdpa")
    made = new_projector(engine, "lexical")
    for compiled in (False, True):
        if compiled:
            engine.model.base_model.compile(dynamic=True)
        for size in GPU_BATCH_SIZES:
            yield training_on_gpu(engine, made, rounds, size, "compiled" if compiled else "not compiled")
    engine.close()


def training_on_gpu(
    engine: TransformersEngine, made: Projector, rounds: int, size: int, way: str
) -> Measurement:
    """Floating-point operations a second of a training loop against those of one large matrix product.

    Counted are the frozen model's matrices, forward and backward to its inputs, at every row that is no padding, and
    its output embedding at the sentences' tokens; attention, the projector and the optimiser are not.
    """
    import torch

    from embedspace.projector import SoftTokenReader
    from embedspace.projector.batches import BucketedBatches

    texts = sentences(GPU_STEPS * size)
    ids = engine.space.tokenizer.encode_many(texts)
    vectors = made.encode(texts)
    batches = BucketedBatches(vectors, ids, texts, batch_size=size, shuffle=False)
    tokens = sum(map(len, ids))
    rows = tokens + len(texts) * (TOKENS + SoftTokenReader(engine).rows_after - 1)
    matrices = sum(p.numel() for p in engine.model.base_model.layers.parameters() if p.ndim == 2)
    output = engine.model.get_output_embeddings().weight.numel()
    work = 4.0 * (rows * matrices + tokens * output)
    left = torch.randn(GPU_MATRIX, GPU_MATRIX, device=engine.device, dtype=torch.bfloat16)
    right = torch.randn_like(left)
    wait: Callable[[], None] = torch.cuda.synchronize if engine.device.type == "cuda" else lambda: None

    def bare() -> None:
        for _ in range(20):
            left @ right
        wait()

    def whole() -> None:
        fit_once(engine, made, batches)
        wait()

    pairs = in_turn(whole, bare, rounds)
    operations = 20 * 2.0 * GPU_MATRIX**3
    own, other = medians(pairs)
    return Measurement(
        f"training on a GPU, {size:,} sentences a step, {way}: share of the matrix bound",
        ratio([(work / whole, operations / products) for whole, products in pairs]),
        "at least 0.4",
        f"{rows / own:,.0f} rows a second, of them {tokens / own:,.0f} tokens of sentences; the bound is "
        f"{operations / other / 1e12:.0f} TFLOP/s in bfloat16",
    )


def fit_once(engine: TransformersEngine, made: Projector, batches: BucketedBatches) -> None:
    """One pass of the training loop over the batches, its own start included."""
    import lightning

    from embedspace.projector.training import ProjectorTraining

    on_cpu = engine.device.type == "cpu"
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu" if on_cpu else "gpu",
        devices=1,
        precision="32-true" if on_cpu else "bf16-mixed",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.fit(ProjectorTraining(made.train(), "distill", engine.space, engine), batches)


def new_projector(engine: TransformersEngine, head: str) -> Projector:
    """An untrained projector of the shipped one's size; its costs do not depend on its weights."""
    import torch

    from embedspace.projector import Lexical, Projector, ProjectorConfig, SentenceEncoder

    encoder, space = SentenceEncoder(), engine.space
    sizes = (
        {"query_width": 1024, "width": 256, "layers": 2, "candidates": 28_000}
        if head == "lexical"
        else {"width": 512}
    )
    torch.manual_seed(0)
    made = Projector(
        ProjectorConfig(
            head=head,  # type: ignore[arg-type]
            tokens=TOKENS,
            features=encoder.features,
            hidden_size=space.hidden_size,
            encoder=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
            space_name=space.name,
            space=space.fingerprint,
            options=sizes,
        ),
        space,
    )
    if isinstance(made.head, Lexical):
        made.head.choose_from(torch.arange(sizes["candidates"], dtype=torch.int32))
    made.attach()
    return made.eval()


def sentences(count: int) -> list[str]:
    """Different sentences of 6 to 16 words."""
    return [
        " ".join(
            WORDS[(number * 7 + place * (number % 5 + 1)) % len(WORDS)] for place in range(6 + number % 11)
        )
        + f" {number}."
        for number in range(count)
    ]
