"""Tiny random checkpoints of real architectures: what a model hub would hold, made in a second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

Family = Literal[
    "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "vaultgemma", "phi3", "gpt2"
]
FAMILIES: tuple[Family, ...] = get_args(Family)

BEGIN, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
START_HEADER, END_HEADER, END_OF_TURN = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
SPECIAL_TOKENS = [BEGIN, END, PAD, START_HEADER, END_HEADER, END_OF_TURN]

LLAMA3_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim }}"
    "{{- '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{%- endif %}"
)
"""Headers, trimmed content and end-of-turn tokens the way Llama 3 puts them."""

_TRAINING_LINES = (
    "The capital of France is Paris, and the river that runs through it is the Seine.",
    "A language model reads tokens; every token is a row of the embedding table.",
    "Please answer the question in one short sentence. What is the weather like today?",
    "system user assistant: you are a helpful assistant, and this is the conversation so far.",
    "Zwei Wörter, ein café, 東京 and some numbers: 0 1 2 3 10 100 1000.",
)


def make_tokenizer(chat_template: str | None = LLAMA3_TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that loses no text and puts a begin token before it, as Llama 3's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TRAINING_LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A",
        pair=f"{BEGIN} $A {BEGIN} $B",
        special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))],
    )
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        additional_special_tokens=[START_HEADER, END_HEADER, END],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.chat_template = chat_template
    return fast


def make_config(
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden_size: int,
    layers: int,
    tied: bool,
    padded_rows: int,
) -> PretrainedConfig:
    """The smallest configuration of a family that transformers and vLLM both accept."""
    from transformers import AutoConfig

    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer) + padded_rows,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,  # wide enough that greedy decoding meets no near-ties
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family == "gpt2":
        return AutoConfig.for_model(
            family, **shared, n_embd=hidden_size, n_layer=layers, n_head=2, n_positions=512
        )
    return AutoConfig.for_model(
        "gemma3_text" if family == "gemma3" else family,
        **shared,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=hidden_size // 2,
        max_position_embeddings=512,
    )


def make_tiny_checkpoint(
    folder: Path,
    family: Family = "llama",
    *,
    hidden_size: int = 64,
    layers: int = 2,
    tied: bool = False,
    padded_rows: int = 3,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    max_shard_size: str = "5GB",
    chat_template: str | None = LLAMA3_TEMPLATE,
) -> Path:
    """Write config, random weights (safetensors) and tokenizer into ``folder``, and return it.

    Args:
        folder: made if missing.
        family: architecture.
        hidden_size: even; 64 or more where vLLM is to load it (its attention needs heads of 32).
        layers: decoder layers.
        tied: whether output and input embeddings are one table.
        padded_rows: rows of the table beyond the vocabulary, as many models have them.
        seed: of the random weights; equal seeds make equal checkpoints.
        dtype: of the weights; float32 by default.
        max_shard_size: a small one, e.g. ``"50KB"``, makes a sharded checkpoint.
        chat_template: Jinja text, or None for a tokenizer without one.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer(chat_template)
    config = make_config(
        family, tokenizer, hidden_size=hidden_size, layers=layers, tied=tied, padded_rows=padded_rows
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    folder.mkdir(parents=True, exist_ok=True)
    model.to(dtype or torch.float32).save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    return folder
