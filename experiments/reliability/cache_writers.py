"""Writers of a cache, each in a process of its own. Imports little: many of these processes are killed soon."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import torch

from embedspace.cache import EmbeddingCache
from embedspace.prompt import PromptEmbeds, Recipe, cache_key

HIDDEN = 64
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["experiments.reliability.cache_writers"])


def started(work: Callable[..., None], *arguments: object) -> tuple[ForkServerProcess, Connection]:
    """A process that does the work, and the end of the pipe at which its reports come out."""
    receive, send = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(*arguments, send))
    process.start()
    send.close()
    return process, receive


def prompt_of(number: int, space: str = "a space") -> PromptEmbeds:
    """The same prompt for the same number in every process, of 1 to 300 rows."""
    generator = torch.Generator().manual_seed(number)
    rows = 1 + (number * 7919) % 300
    vectors = torch.randn(rows, HIDDEN, generator=generator).bfloat16()
    content = torch.rand(rows, generator=generator) > 0.5
    return PromptEmbeds(vectors, content, space, Recipe.of("made", {"number": number}))


def key_of(number: int, space: str = "a space") -> bytes:
    """The key of that prompt."""
    recipe = Recipe.of("made", {"number": number})
    return cache_key(space=space, template=None, token_ids=[number], recipe=recipe, dtype=torch.bfloat16)


def same(a: PromptEmbeds | None, b: PromptEmbeds) -> bool:
    """Whether a prompt is the other one, bit for bit."""
    return (
        a is not None
        and a.vectors.dtype == b.vectors.dtype
        and torch.equal(a.vectors, b.vectors)
        and torch.equal(a.content, b.content)
        and (a.space, a.recipe) == (b.space, b.recipe)
    )


def numbers_together(number: int) -> list[int]:
    """The prompts that a writer puts in its ``number``-th transaction."""
    return [number * 10 + part for part in range(1 + number % 3)]


def write_until_killed(path: str, first: int, reports: Connection) -> None:
    """Put prompts, one by one and several together, and report each after the cache has stored it."""
    torch.set_num_threads(1)
    cache = EmbeddingCache(path)
    for number in itertools.count(first):
        together = numbers_together(number)
        if cache.put_many((key_of(each), prompt_of(each)) for each in together) == len(together):
            reports.send(together)
