"""The form in which the parity prompts are put to a model: conversations, or plain text where it has no template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedspace.prompt import PromptEmbeds
from embedspace.space import EmbeddingSpace
from embedspace.space.template_variables import TemplateClock
from embedspace.verification.certificate import Check


@dataclass(frozen=True, eq=False)
class PromptForm:
    """One user's message through the chat template; without one, plain text with the tokenizer's special tokens."""

    space: EmbeddingSpace

    @property
    def is_chat(self) -> bool:
        """Whether the model has a chat template."""
        return self.space.tokenizer.chat_template is not None

    def prompts(self, texts: Sequence[str]) -> list[PromptEmbeds]:
        """The texts as embeddings."""
        items: list[Any] = [_conversation(text) for text in texts] if self.is_chat else list(texts)
        return list(self.space.embed_many(items, special_tokens=True))

    def ids(self, text: str) -> list[int]:
        """The text as token ids."""
        if self.is_chat:
            return self.space.chat_ids(_conversation(text))
        return self.space.tokenize(text, special_tokens=True)

    def reference_ids(self, tokenizer: Any, text: str) -> list[int]:
        """The text as token ids of a tokenizer of transformers."""
        if self.is_chat:
            encoded = tokenizer.apply_chat_template(
                _conversation(text), add_generation_prompt=True, strftime_now=TemplateClock()
            )
            return list(encoded["input_ids"])
        return list(tokenizer.encode(text))

    def tokenize_request(self, text: str) -> dict[str, Any]:
        """What a server is asked to tokenise the text."""
        if self.is_chat:
            return {"messages": _conversation(text), "add_generation_prompt": True}
        return {"prompt": text, "add_special_tokens": True}

    def skipped(self) -> Check:
        """Says that the chat template was not checked."""
        tokenizer = self.space.tokenizer
        names = [tokenizer.token_name(token) for token in (*tokenizer.before, *tokenizer.after)]
        around = (
            f"its special tokens ({' '.join(names)}) around it" if names else "no special tokens around it"
        )
        return Check(
            "chat template", True, f"skipped: the model has none; the prompts are plain text with {around}"
        )


def _conversation(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
