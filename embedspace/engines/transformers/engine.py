"""The in-process engine: a transformers model in this process, no server needed."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedspace.engines.base import Completion, Prompt, Sampling, require_one_completion, warn_of_failure
from embedspace.engines.batching import Batch, check_prompt, padded, require_prompt, require_prompts
from embedspace.engines.transformers.loading import choose_device, choose_dtype, load_model
from embedspace.engines.transformers.sampling import Sampler, StopStrings
from embedspace.engines.transformers.scoring import chunks, score_batch
from embedspace.engines.transformers.shared_prefix import SharedPrefix
from embedspace.engines.transformers.streaming import TokenFeed
from embedspace.errors import EngineError
from embedspace.models import resolve
from embedspace.prompt import PromptEmbeds
from embedspace.space import EmbeddingSpace

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class TransformersEngine:
    """Generates and scores with a transformers model in this process.

    Embeddings and token ids are treated alike after the embedding layer, so greedy completions of a prompt
    and of its embeddings are the same. Each prompt's random numbers are seeded by the sampling's seed and the
    prompt itself: a completion depends neither on its batch nor on earlier calls. The common prefix of a batch, or
    of one prompt and the next, is computed once; the key-value cache of the last such prefix is kept. A forked
    process may use the engine on a CPU, with one thread.

    >>> engine = TransformersEngine("smollm2-135m-instruct")
    >>> prompt = engine.space.embed_chat([{"role": "user", "content": "What is the capital of France?"}])
    >>> [completion.text for completion in engine.generate([prompt], Sampling(max_tokens=2))]
    ['The capital']

    Args:
        model: packaged name, local folder, hub id, or a loaded space.
        dtype: dtype to compute in, as torch names it; ``auto`` is float32 on a CPU and the
            checkpoint's own elsewhere. A model that scales its embeddings, such as Gemma, rounds factor and product
            to the dtype it computes in, and the rows of a space are scaled in the checkpoint's: there ``auto`` is
            the checkpoint's on a CPU too, and another dtype warns (logits of text and of rows then differ).
        device: as torch names it; ``auto`` is a GPU where there is one.
        batch_size: most sequences that are generated together.

    Raises:
        ValueError: unknown model, dtype or device, or a checkpoint that cannot be loaded: damaged, without some of the
            model's weights, or quantised by a method that is not installed.
        EngineError: the device has too little memory for the model.
    """

    def __init__(
        self,
        model: str | Path | EmbeddingSpace,
        *,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not isinstance(model, EmbeddingSpace):
            resolve(model)  # the whole model first: the space is then read from it, not downloaded as well
        self.space = model if isinstance(model, EmbeddingSpace) else EmbeddingSpace.from_pretrained(model)
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device, self.space)
        self.batch_size = batch_size
        self._process = os.getpid()
        self.model: Any = load_model(resolve(self.space.folder), self.device, self.dtype)
        self._prefix = SharedPrefix(self.model)

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Completions in prompt order; a prompt that cannot be answered fails alone, and the first warns.

        Raises:
            TypeError: something is neither a PromptEmbeds nor token ids.
            EngineError: the device ran out of memory.
        """
        self._require_usable()
        return warn_of_failure(self._generate(require_prompts(prompts), sampling))

    def _generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        size = max(1, self.batch_size // sampling.n)
        checked = map(require_prompt, prompts)
        requests = ((prompt, self._fit_to_context(prompt, sampling)) for prompt in checked)
        for (_, fitting), alike in itertools.groupby(
            enumerate(requests), key=lambda item: (isinstance(item[1][0], PromptEmbeds), item[1][1])
        ):
            while batch := [(position, prompt) for position, (prompt, _) in itertools.islice(alike, size)]:
                yield from self._generate_batch(batch, fitting)

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[str]:
        """The text of one completion, piece by piece as it is generated; abandoning the iterator ends the generation.

        Raises:
            ValueError: ``sampling.n`` is not 1, or this model cannot answer the prompt.
            EngineError: the device ran out of memory.
        """
        require_one_completion(sampling)
        self._require_usable()
        prompt = require_prompt(prompt)
        sampling = self._fit_to_context(prompt, sampling)
        feed = TokenFeed()
        # With embeddings, generate knows the new tokens only; with ids, the prompt before them.
        skipped = 0 if isinstance(prompt, PromptEmbeds) else len(prompt)
        decode = partial(self.space.tokenizer.decode, skip_special_tokens=True)

        def complete() -> Completion:
            (completion,) = self._generate_batch([(0, prompt)], sampling, (feed,))
            if completion.error is not None:
                raise ValueError(completion.error)
            return completion

        yield from feed.pieces(complete, lambda tokens: decode(tokens[skipped:]), sampling.stop)

    def score(self, prompt: Prompt, continuation: str | Sequence[int]) -> Float[Tensor, " tokens"]:
        """Log-probabilities, in nats, of the tokens of a continuation after a prompt.

        Raises:
            ValueError: the continuation is empty, or this model cannot answer the prompt.
        """
        return self.score_all([(prompt, [continuation])])[0][0]

    @torch.inference_mode()
    def score_all(
        self, pairs: Sequence[tuple[Prompt, Sequence[str | Sequence[int]]]]
    ) -> list[list[Float[Tensor, " tokens"]]]:
        """:meth:`score` for several continuations of each of several prompts; prompts of like length together.

        Raises:
            ValueError: as for :meth:`score`, before anything is computed.
        """
        self._require_usable()
        targets = [[self._continuation_ids(each) for each in continuations] for _, continuations in pairs]
        for (prompt, _), own in zip(pairs, targets, strict=True):
            self._check(prompt, room=max(map(len, own), default=0))

        def is_embedded(position: int) -> bool:
            return isinstance(pairs[position][0], PromptEmbeds)

        scores: dict[int, list[Tensor]] = {}
        order = sorted(range(len(pairs)), key=lambda each: (is_embedded(each), len(pairs[each][0])))
        for _, alike in itertools.groupby(order, key=is_embedded):
            for chunk in chunks(list(alike), self.batch_size):
                batch = [pairs[each][0] for each in chunk], [targets[each] for each in chunk]
                try:
                    scores |= zip(chunk, self._score_batch(*batch), strict=True)
                except IndexError as error:
                    longest = max(chunk, key=lambda each: len(pairs[each][0]))
                    room = max(map(len, targets[longest]), default=0)
                    raise ValueError(_no_positions(pairs[longest][0], room, error)) from error
        return [scores[position] for position in range(len(pairs))]

    def describe(self) -> dict[str, str]:
        """Kind, model, numeric dtype, device and versions, for records."""
        return {
            "engine": "transformers",
            "model": self.space.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "transformers": importlib.metadata.version("transformers"),
            "torch": torch.__version__,
        }

    def close(self) -> None:
        """Release the model's memory."""
        self.model = None
        self._prefix = SharedPrefix(None)

    def _require_usable(self) -> None:
        """Raise ``EngineError`` where the model is released, or on a GPU that belongs to the parent process."""
        if self.model is None:
            raise EngineError(f"the engine of {self.space.name!r} is closed; make a new TransformersEngine")
        if self.device.type != "cpu" and self._process != os.getpid():
            raise EngineError(
                f"the engine of {self.space.name!r} computes on {self.device} in process {self._process}, and this is "
                "a fork of it, where that device cannot be used. Make the engine in the process that uses it, and "
                "start processes with 'spawn'"
            )

    def _fit_to_context(self, prompt: Prompt, sampling: Sampling) -> Sampling:
        """With at most as many new tokens as the context has positions left after the prompt, as in vLLM."""
        room = (
            sampling.max_tokens
            if self.space.context_length is None
            else self.space.context_length - len(prompt)
        )
        return sampling if room >= sampling.max_tokens or room < 1 else replace(sampling, max_tokens=room)

    def _check(self, prompt: Prompt, *, room: int) -> None:
        """Raise ``ValueError`` or ``TypeError`` where a prompt cannot be answered with ``room`` new tokens."""
        limit = None if self.space.context_length is None else self.space.context_length - room
        checked = check_prompt(prompt, hidden_size=self.space.hidden_size, max_rows=limit)
        if isinstance(checked, PromptEmbeds):
            self.space.require(checked)
        else:
            self.space.lookup(checked)

    def _generate_batch(
        self, batch: Sequence[tuple[int, Prompt]], sampling: Sampling, feeds: Sequence[TokenFeed] = ()
    ) -> Sequence[Completion]:
        valid: list[tuple[int, Prompt]] = []
        failed: list[Completion] = []
        for position, prompt in batch:
            try:
                self._check(prompt, room=1)
                valid.append((position, prompt))
            except ValueError as error:
                failed.append(Completion.failed(position, str(error)))
        try:
            completions = self._complete_or_fail(valid, sampling, feeds)
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"{self.device} ran out of memory with {len(valid)} prompts of up to "
                f"{max(len(prompt) for _, prompt in valid)} rows at a time; lower batch_size (now {self.batch_size})"
            ) from error
        return Batch(tuple(valid), tuple(failed)).in_order(completions)

    def _complete_or_fail(
        self, batch: Sequence[tuple[int, Prompt]], sampling: Sampling, feeds: Sequence[TokenFeed]
    ) -> list[Completion]:
        """Completions of checked prompts; one for which the model has no positions fails alone."""
        try:
            return self._complete(batch, sampling, feeds) if batch else []
        except IndexError as error:
            if len(batch) == 1:
                ((position, prompt),) = batch
                return [Completion.failed(position, _no_positions(prompt, sampling.max_tokens, error))]
        half = len(batch) // 2
        return [
            *self._complete_or_fail(batch[:half], sampling, feeds),
            *self._complete_or_fail(batch[half:], sampling, feeds),
        ]

    @torch.inference_mode()
    def _complete(
        self, batch: Sequence[tuple[int, Prompt]], sampling: Sampling, feeds: Sequence[TokenFeed] = ()
    ) -> list[Completion]:
        started = time.monotonic()
        sequences = [(position, index) for position, _ in batch for index in range(sampling.n)]
        repeated = [prompt for _, prompt in batch for _ in range(sampling.n)]
        inputs = self._inputs(repeated, room=sampling.max_tokens)
        # With embeddings, generate returns the new tokens only; with ids, the prompt before them.
        skipped = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        sampler = Sampler(sampling, [_identity(prompt) for prompt in repeated], self.space.tokenizer)
        stops = StopStrings(sampling.stop, self.space.tokenizer, skipped)
        config = self._generation_config(sampling)
        output = self.model.generate(
            **inputs, generation_config=config, logits_processor=[sampler], stopping_criteria=[stops, *feeds]
        )
        seconds = time.monotonic() - started
        ends = {*config.eos_token_id, config.pad_token_id}
        if len(repeated) == 1:
            self._keep(repeated[0], output.past_key_values, room=sampling.max_tokens)
        completions = []
        for row, tokens in enumerate(output.sequences[:, skipped:].tolist()):
            ids, text, reason = sampler.cut(tokens, ends)
            completions.append(
                Completion(
                    *sequences[row], text, tuple(ids), reason, seconds, *sampler.logprobs(row, len(ids))
                )
            )
        return completions

    def _generation_config(self, sampling: Sampling) -> Any:
        """Greedy decoding: of the checkpoint's sampling defaults only its end-of-sequence tokens are used."""
        from transformers import GenerationConfig

        own = self.model.generation_config
        ends = own.eos_token_id if own.eos_token_id is not None else self.model.config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        pad = own.pad_token_id if own.pad_token_id is not None else (ends or [0])[0]
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=pad,
            return_dict_in_generate=True,
        )

    def _inputs(self, prompts: Sequence[Prompt], *, room: int) -> dict[str, Any]:
        """A padded batch, all of embeddings or all of token ids, with its attention mask and shared prefix's cache."""
        tensors = [self._tensor(prompt) for prompt in prompts]
        shared = self._prefix.length(tensors, columns=max(map(len, tensors)) + room)
        batch, mask = padded(tensors, shared)
        name = "inputs_embeds" if batch.ndim == 3 else "input_ids"
        inputs = {name: batch.to(self.device), "attention_mask": mask.to(self.device)}
        return inputs | ({"past_key_values": self._prefix.cache(shared, len(tensors))} if shared else {})

    def _keep(self, prompt: Prompt, cache: Any, *, room: int) -> None:
        self._prefix.keep(self._tensor(prompt), cache, columns=len(prompt) + room)

    def _tensor(self, prompt: Prompt) -> Tensor:
        return (
            prompt.vectors.detach().to("cpu", self.dtype)
            if isinstance(prompt, PromptEmbeds)
            else torch.tensor(prompt)
        )

    def _score_batch(
        self, prompts: Sequence[Prompt], targets: Sequence[Sequence[list[int]]]
    ) -> list[list[Tensor]]:
        room = max((len(target) for own in targets for target in own), default=0)
        scores, cache = score_batch(self.model, self._inputs(prompts, room=room), targets, self.batch_size)
        if len(prompts) == 1:
            self._keep(prompts[0], cache, room=room)
        return scores

    def _continuation_ids(self, continuation: str | Sequence[int]) -> list[int]:
        ids = self.space.tokenize(continuation) if isinstance(continuation, str) else list(continuation)
        if not ids:
            raise ValueError(f"the continuation {continuation!r} has no tokens to score")
        self.space.lookup(ids)
        return ids


def _identity(prompt: Prompt) -> str:
    """What seeds a prompt's random numbers besides the sampling's seed."""
    return prompt.recipe.digest if isinstance(prompt, PromptEmbeds) else repr(list(prompt))


def _no_positions(prompt: Prompt, room: int, error: IndexError) -> str:
    return (
        f"the model cannot take {len(prompt)} rows and {room} tokens after them ({error}): it has fewer positions, "
        "and its configuration does not say how many; shorten the prompt or ask for fewer tokens"
    )
