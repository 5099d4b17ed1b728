"""LLMLingua's own package (Jiang et al. 2023) as a way to shorten a text, given the small model that answers."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SEGMENT = 200
"""Tokens that it goes through at a time: its own default; a text of fewer it would leave nearly as it is."""


def installed() -> bool:
    """Whether the package and what it imports are there: the extra ``llmlingua``."""
    return all(importlib.util.find_spec(name) is not None for name in ("llmlingua", "nltk", "tiktoken"))


@cache
def shortened(folder: Path, text: str, ratio: float) -> str:
    """What LLMLingua leaves of a text when asked for ``1 / ratio`` of its tokens; it may well leave more or fewer.

    Only its token-level method is used: the budgets over several demonstrations and sentences have nothing to do in
    one passage.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    compressor = _compressor(folder)
    tokens = compressor.get_token_length(text, add_special_tokens=False)
    found = compressor.compress_prompt(
        [text],
        rate=1 / ratio,
        iterative_size=min(SEGMENT, tokens),
        use_context_level_filter=False,
        use_sentence_level_filter=False,
    )
    return str(found["compressed_prompt"])


@cache
def _compressor(folder: Path) -> Any:
    from llmlingua import PromptCompressor

    class Offline(PromptCompressor):
        """The package's class with its methods as they are, made without a download.

        Its constructor fetches the tokenizer of another vendor's model, which only counts tokens for a report of what
        was saved; the model's own does so here.
        """

        model: Any

        def __init__(self, folder: str) -> None:
            self.model_name, self.use_llmlingua2 = folder, False
            self.retrieval_model, self.retrieval_model_name = None, None
            self.open_api_config: dict[str, object] = {}
            self.cache_bos_num, self.prefix_bos_num = 10, 100
            self.load_model(folder, "cpu", {"trust_remote_code": False})
            self.oai_tokenizer = self.tokenizer
            self.model = _PairsOfKeysAndValues(self.model)

    return Offline(str(folder))


class _PairsOfKeysAndValues:
    """A model that takes and gives its cache as pairs of tensors, as transformers had it when LLMLingua was written."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(
        self, ids: Any, *, attention_mask: Any, past_key_values: Any, use_cache: bool
    ) -> SimpleNamespace:
        from transformers import DynamicCache

        known = DynamicCache()
        for layer, (keys, values) in enumerate(past_key_values or ()):
            known.update(keys, values, layer)
        output = self.model(ids, attention_mask=attention_mask, past_key_values=known, use_cache=use_cache)
        pairs = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return SimpleNamespace(logits=output.logits, past_key_values=pairs)
