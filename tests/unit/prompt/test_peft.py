"""Soft prompts of PEFT: read exactly, and refused where they would not mean what they meant."""

import json

import pytest
import torch
from safetensors.torch import save_file

from embedspace import PromptEmbeds, Recipe


def adapter(folder, space, *, rows=None, tensor="prompt_embeddings", **changes):
    """A folder as ``PeftModel.save_pretrained`` writes it for prompt tuning."""
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(space.folder),
        "num_virtual_tokens": 4,
        "token_dim": space.hidden_size,
        "num_layers": 30,
        "num_attention_heads": 9,
        **changes,
    }
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if rows is None:
        rows = torch.randn(4, space.hidden_size, generator=torch.Generator().manual_seed(0))
    save_file({tensor: rows}, folder / "adapter_model.safetensors")
    return folder, rows


def test_the_rows_are_read_bit_for_bit_and_count_as_template(tmp_path, smollm2):
    folder, rows = adapter(tmp_path / "a", smollm2)
    soft = PromptEmbeds.from_peft(folder, smollm2)
    assert torch.equal(soft.vectors, rows)
    assert not soft.content.any()
    assert soft.space == smollm2.fingerprint
    assert soft.recipe.operation == "from_peft"


def test_they_are_put_before_a_prompt_in_the_wider_dtype(tmp_path, smollm2):
    folder, rows = adapter(tmp_path / "a", smollm2)
    prompt = smollm2.embed("The weather is")
    joined = PromptEmbeds.from_peft(folder, smollm2, before=prompt)
    assert joined.vectors.dtype == torch.float32
    assert torch.equal(joined.vectors, torch.cat([rows, prompt.vectors.float()]))
    assert joined.content.tolist() == [False] * 4 + [True] * len(prompt)
    assert prompt.recipe in joined.recipe.inputs or prompt.recipe in joined.recipe.inputs[1].inputs


def test_another_name_of_the_same_model_is_taken_only_when_the_caller_vouches(tmp_path, smollm2):
    folder, rows = adapter(tmp_path / "a", smollm2, base_model_name_or_path="someone/SmolLM2-copy")
    with pytest.raises(ValueError, match="base_model='someone/SmolLM2-copy'"):
        PromptEmbeds.from_peft(folder, smollm2)
    soft = PromptEmbeds.from_peft(folder, smollm2, base_model="someone/SmolLM2-copy")
    assert torch.equal(soft.vectors, rows)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "", None])
def test_the_name_of_the_space_or_no_name_is_enough(tmp_path, smollm2, name):
    folder, _ = adapter(tmp_path / "a", smollm2, base_model_name_or_path=name)
    assert len(PromptEmbeds.from_peft(folder, smollm2)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LORA"}, "changes the model's weights"),
        ({"peft_type": "PREFIX_TUNING"}, "keys and values into every layer"),
        ({"peft_type": "ADAPTION_PROMPT"}, "Only PROMPT_TUNING and P_TUNING"),
        ({"peft_type": None}, "Only PROMPT_TUNING and P_TUNING"),
        ({"num_virtual_tokens": 8}, "num_virtual_tokens 8"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "only CAUSAL_LM"),
        ({"token_dim": 64}, "token_dim 64"),
        ({"num_layers": 12}, "num_layers 12"),
        ({"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}, "not known to be"),
    ],
)
def test_adapters_that_are_no_prompts_for_this_model_are_refused(tmp_path, smollm2, changes, message):
    folder, _ = adapter(tmp_path / "a", smollm2, **changes)
    with pytest.raises(ValueError, match=message):
        PromptEmbeds.from_peft(folder, smollm2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "JSON object"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "safe_serialization=True"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"abc"), "damaged or cut short"),
    ],
)
def test_damaged_adapters_are_refused(tmp_path, smollm2, damage, message):
    folder, _ = adapter(tmp_path / "a", smollm2)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        PromptEmbeds.from_peft(folder, smollm2)


def test_other_tensors_shapes_and_values_are_refused(tmp_path, smollm2):
    for chosen, message in (
        ({"tensor": "base_model.lora_A"}, "no tensor 'prompt_embeddings'"),
        ({"rows": torch.ones(4, 64)}, r"shape \[4, 64\]"),
        ({"rows": torch.ones(576)}, r"shape \[576\]"),
        ({"rows": torch.full((4, 576), torch.nan)}, "NaN"),
    ):
        folder, _ = adapter(tmp_path / "a", smollm2, **chosen)
        with pytest.raises(ValueError, match=message):
            PromptEmbeds.from_peft(folder, smollm2)
    with pytest.raises(ValueError, match="not a PEFT adapter"):
        PromptEmbeds.from_peft(tmp_path / "nowhere", smollm2)


def test_a_prompt_of_another_space_is_refused(tmp_path, smollm2):
    folder, _ = adapter(tmp_path / "a", smollm2)
    foreign = PromptEmbeds(torch.ones(2, 576), torch.tensor([True, True]), "other", Recipe.of("made", {}))
    with pytest.raises(ValueError, match="the space other"):
        PromptEmbeds.from_peft(folder, smollm2, before=foreign)
