"""First prompt embedding in a fresh process, against loading the whole model."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from embedspace.models import resolve
from experiments.benchmarks.measurement import Measurement, medians, random_rounds, ratio

BASELINE = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({folder!r})
model = AutoModelForCausalLM.from_pretrained({folder!r})
ids = tokenizer.apply_chat_template({messages!r}, add_generation_prompt=True, return_tensors="pt")["input_ids"]
with torch.no_grad():
    print(model.get_input_embeddings()(ids)[0].shape)
"""
EMBED_CHAT = """
from embedspace import EmbeddingSpace
print(EmbeddingSpace.from_pretrained({folder!r}).embed_chat({messages!r}).vectors.shape)
"""
EMBED = """
from embedspace import EmbeddingSpace
print(EmbeddingSpace.from_pretrained({folder!r}).embed({messages!r}[0]["content"]).vectors.shape)
"""
# The child prints its own peak: the peak that the system keeps for its parent includes the parent's size at the fork.
PRINT_PEAK = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
FIGURES = (("time", "at most 0.4", "s", 2), ("peak memory", "at most 0.65", "MB", 0))


def cold_start(model: str, starts: int) -> Iterator[Measurement]:
    """Time and peak memory, imports included."""
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    baseline, chat, text = (
        code.format(folder=str(resolve(model)), messages=messages) for code in (BASELINE, EMBED_CHAT, EMBED)
    )
    for code in (baseline, chat, text):
        fresh_process(code)  # its files are in the page cache from here on
    sides = [partial(fresh_process, code) for code in (baseline, chat, text)]
    rounds = random_rounds(sides, starts)
    for side, label in ((1, "embed_chat"), (2, "embed")):
        for figure, (what, aim, unit, digits) in enumerate(FIGURES):
            pairs = [(each[side][figure], each[0][figure]) for each in rounds]
            own, other = medians(pairs)
            yield Measurement(
                f"first prompt in a fresh process ({label}), {what}",
                ratio(pairs),
                aim,
                f"{own:.{digits}f} {unit} against {other:.{digits}f} {unit} with AutoTokenizer and "
                f"AutoModelForCausalLM, median of {starts}",
            )


def fresh_process(code: str) -> tuple[float, float]:
    """Seconds and peak memory in MB of a Python process that runs ``code``.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + PRINT_PEAK], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    return seconds, int(done.stdout.split()[-2]) * 1024 / 1e6
