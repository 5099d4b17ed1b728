"""Long streams: does resident memory stay flat?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from embedspace._util.progress import progress
from experiments.reliability.rows import Row
from experiments.reliability.small_server import SmallServer


def memory_rows(model: str, prompts: int, most_growth_mb: float) -> Iterator[Row]:
    """Resident memory while that many texts are embedded, and while they are sent and answered as well."""
    from embedspace import EmbeddingSpace
    from embedspace.engines import Sampling, VLLMClient

    space = EmbeddingSpace.from_pretrained(model)

    def texts() -> Iterator[str]:
        return (f"Text number {number}, no two alike." for number in range(prompts))

    yield flat("embed_many", space.embed_many(texts()), prompts, most_growth_mb)
    with SmallServer() as server, VLLMClient(server.url, prompts_per_request=64, max_concurrency=2) as client:
        yield flat(
            "embed_many and generate",
            client.generate(space.embed_many(texts()), Sampling(max_tokens=1)),
            prompts,
            most_growth_mb,
        )


def flat(name: str, stream: Iterable[object], total: int, most_growth_mb: float) -> Row:
    """Read a stream to its end and compare its resident memory over the first fifth with that over the rest."""
    import psutil

    process, count = psutil.Process(), 0
    early, late = 0.0, 0.0
    began = time.monotonic()
    with progress(name, total) as advance:
        for count, _ in enumerate(stream, start=1):
            advance()
            if count % 500 == 0:
                resident = process.memory_info().rss / 1e6
                if count <= total // 5:
                    early = max(early, resident)
                else:
                    late = max(late, resident)
    seconds = time.monotonic() - began
    return Row(
        f"memory over {count:,} prompts through {name}",
        f"{late - early:+.0f} MB".replace("-", "\u2212"),
        f"peak of {early:.0f} MB over the first fifth, {late:.0f} MB over the rest; {count / seconds:,.0f} a second",
        count == total and late - early <= most_growth_mb,
        f"all prompts, growth of at most {most_growth_mb:g} MB",
    )
