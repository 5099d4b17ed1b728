"""A reader and writer of one cache, in a process of its own."""

import os
import random
from multiprocessing.connection import Connection

import torch

from embedspace.cache import EmbeddingCache
from experiments.reliability.cache_writers import key_of, prompt_of, same


def write_and_read(path: str, space: str, numbers: list[int], max_bytes: int, answers: Connection) -> None:
    """Put and get prompts of a space in a random order; answer with how many came back wrong, and right."""
    torch.set_num_threads(1)
    order = random.Random(os.getpid())
    wrong = right = 0
    with EmbeddingCache(path, max_bytes) as cache:
        for number in order.sample(numbers, len(numbers)):
            cache.put(key_of(number, space), prompt_of(number, space))
            asked = order.choice(numbers)
            found = cache.get(key_of(asked, space))
            if found is not None:
                right += same(found, prompt_of(asked, space))
                wrong += not same(found, prompt_of(asked, space))
    answers.send((wrong, right))
