"""The model's tokenizer exactly as transformers sets it up, without the cost of transformers."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace._util.files import read_cached_json, write_cached_json
from embedspace.models import cache_folder
from embedspace.space.conversation import Conversation, Render, Span
from embedspace.space.message_spans import (
    render_continued,
    render_with_spans,
    require_continuable,
    require_every_message,
)
from embedspace.space.template_variables import TemplateValues

if TYPE_CHECKING:
    import tokenizers

VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back, and the chat template.

    ``AutoTokenizer`` may change what ``tokenizer.json`` says, so its result is the pipeline that the model and a
    server use. Importing it takes seconds: the result is stored in the cache folder, under a hash of the
    tokenizer's files and the version of transformers, and loaded by the ``tokenizers`` library.

    >>> from embedspace import models
    >>> tokenizer = Tokenizer.from_folder(models.resolve("smollm2-135m-instruct"))
    >>> tokenizer.decode(tokenizer.encode("bread and rice"))
    'bread and rice'
    """

    pipeline: str = field(repr=False)
    """The whole pipeline in the format of ``tokenizer.json``, without padding, truncation and post-processing."""
    chat_template: str | None = field(repr=False)
    special_tokens: dict[str, Any]
    """Names and texts of the special tokens, as chat templates read them."""
    before: Sequence[int] = ()
    """Special tokens that the tokenizer puts before a plain text, where it is asked to."""
    after: Sequence[int] = ()
    """Those that it puts behind."""

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a model folder.

        Raises:
            ValueError: the folder has none, or one that only exists as slow Python code.
        """
        memo = cache_folder() / "tokenizers" / f"{_memo_key(folder)}.json"
        fields = read_cached_json(memo)
        if fields is None:
            fields = _through_transformers(folder)
            write_cached_json(memo, fields)
        return cls(**fields)

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        import tokenizers

        return tokenizers.Tokenizer.from_str(self.pipeline)

    @cached_property
    def added_tokens(self) -> dict[int, tokenizers.AddedToken]:
        """Tokens that are found in a text before anything else, by id: special tokens and the like."""
        return dict(self._backend.get_added_tokens_decoder())

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens around it."""
        return list(self._backend.encode(_checked(text), add_special_tokens=False).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """Token ids, and for each token its first character and the one after its last."""
        encoding = self._backend.encode(_checked(text), add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

    def encode_batch(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        """:meth:`encode_with_offsets` of many texts, on all cores."""
        encodings = self._backend.encode_batch([_checked(text) for text in texts], add_special_tokens=False)
        return [(list(encoding.ids), list(encoding.offsets)) for encoding in encodings]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`encode` of many texts, on all cores; faster than :meth:`encode_batch`, which also gives offsets."""
        encodings = self._backend.encode_batch_fast(
            [_checked(text) for text in texts], add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    def token_name(self, token: int) -> str:
        """A token as the vocabulary spells it, e.g. with the byte-level alphabet; empty where there is none."""
        return self._backend.id_to_token(token) or ""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def template_values(self, *given: Mapping[str, object] | None) -> TemplateValues:
        """Checked variables for one rendering of the chat template.

        Args:
            given: values by the names that the template reads, e.g. ``{"enable_thinking": False}``; later ones go
                before earlier ones.

        Raises:
            TypeError: a value that JSON cannot hold.
            ValueError: there is no template, or it does not read a variable.
        """
        return TemplateValues.of(self._template, *given)

    @property
    def _template(self) -> str:
        if self.chat_template is None:
            raise ValueError(
                "the model's folder has no chat template; use embed(text, special_tokens=True) for plain text, or put "
                "the template into chat_template.jinja beside tokenizer.json"
            )
        return self.chat_template

    def render(
        self,
        messages: Conversation,
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        values: TemplateValues | None = None,
    ) -> str:
        """A conversation as the chat template writes it.

        Args:
            messages: of text.
            add_generation_prompt: end with the header after which the model answers.
            continue_final_message: end with the text of the last message, and no header.
            values: of :meth:`template_values`; its clock notes what the template reads.

        Raises:
            ValueError: there is no template, it refuses the conversation, or it leaves out a message.
        """
        render = self._renderer(messages, add_generation_prompt, continue_final_message, values)
        rendered = render(messages)
        require_every_message(render, messages, rendered)
        return rendered

    def render_with_spans(
        self,
        messages: Conversation,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        values: TemplateValues | None = None,
    ) -> tuple[str, list[Span]]:
        """:meth:`render`, and where in it the messages' own text stands.

        Raises:
            ValueError: as :meth:`render`, or the template rewrites the messages' text.
        """
        render = self._renderer(messages, add_generation_prompt, continue_final_message, values)
        return render_with_spans(render, messages)

    def _renderer(
        self,
        messages: Conversation,
        add_generation_prompt: bool,
        continue_final_message: bool,
        values: TemplateValues | None,
    ) -> Render:
        values = values or self.template_values()
        if not continue_final_message:
            return partial(self._rendered, prompt=add_generation_prompt, values=values)
        require_continuable(messages)
        return partial(render_continued, partial(self._rendered, prompt=False, values=values))

    def _rendered(self, messages: Conversation, *, prompt: bool, values: TemplateValues) -> str:
        import jinja2.exceptions

        from embedspace.space.jinja_template import render_template

        try:
            return render_template(
                self._template,
                messages,
                self.special_tokens,
                prompt=prompt,
                clock=values.clock,
                variables=values.variables,
            )
        except (jinja2.exceptions.TemplateError, TypeError) as error:
            # A TypeError comes of a template that takes no message without content.
            roles = [message["role"] for message in messages]
            raise ValueError(f"the chat template refuses the roles {roles}: {error}") from error


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text has half of a surrogate pair at position {error.start}, which no tokenizer can read; "
            "clean it with text.encode('utf-8', 'replace').decode()"
        ) from error
    return text


def _memo_key(folder: Path) -> str:
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise ValueError(
            f"{folder} has no tokenizer; expected tokenizer.json (or vocabulary files that transformers "
            "can convert). Save one there with AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    key = hashlib.blake2b(importlib.metadata.version("transformers").encode(), digest_size=16)
    key.update(b"with special tokens")  # the format of what is stored
    key.update(tokenizer_digest(folder))
    key.update((folder / "config.json").read_bytes())  # its model type decides on the tokenizer's class
    return key.hexdigest()


def tokenizer_digest(folder: Path) -> bytes:
    """Hash of all tokenizer files of a model folder, names and lengths included."""
    digest = hashlib.blake2b(digest_size=16)
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file():
            data = path.read_bytes()
            digest.update(f"{name} {len(data)} ".encode() + data)
    return digest.digest()


def _through_transformers(folder: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        pipeline = json.loads(loaded.backend_tokenizer.to_str())
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(
            f"the tokenizer in {folder} cannot be loaded as a fast tokenizer: {error}. "
            "Convert it with transformers and save tokenizer.json beside the model"
        ) from error
    before, after = _special_tokens_around(loaded)
    # A post-processor would trim white space from the offsets; what it adds to a text is stored beside the pipeline.
    pipeline.update(padding=None, truncation=None, post_processor=None)
    return {
        "pipeline": json.dumps(pipeline, ensure_ascii=False),
        "chat_template": loaded.get_chat_template() if loaded.chat_template else None,
        "special_tokens": loaded.special_tokens_map,
        "before": before,
        "after": after,
    }


def _special_tokens_around(loaded: Any) -> tuple[list[int], list[int]]:
    """What a tokenizer of transformers puts before and behind a plain text."""
    text = "a"
    plain = loaded.encode(text, add_special_tokens=False)
    whole = loaded.encode(text, add_special_tokens=True)
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []
