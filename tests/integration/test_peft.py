"""A soft prompt trained by PEFT answers the same through PEFT, in process and through a vLLM server."""

import pytest
import torch

from embedspace import PromptEmbeds
from embedspace.engines import Sampling, TransformersEngine
from embedspace.verification.certificate import compare_greedy

PROMPTS = ["The capital of France is", "My favourite animal is the"]
TARGET = " purple elephant, and it dances under the moon."
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory, smollm2):
    """A prompt-tuning adapter after a few steps of Adam, and PEFT's own greedy answers with it."""
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(smollm2.folder, dtype=torch.float32)
    model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.3)
    target = smollm2.tokenize(TARGET)
    for _ in range(6):
        for text in PROMPTS:
            ids = smollm2.tokenize(text)
            labels = torch.tensor([[-100] * len(ids) + target])
            optimiser.zero_grad()
            model(input_ids=torch.tensor([ids + target]), labels=labels).loss.backward()
            optimiser.step()
    model.save_pretrained(folder)
    model.eval()
    answers = []
    for text in PROMPTS:
        ids = torch.tensor([smollm2.tokenize(text)])
        output = model.generate(input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
        answers.append(output[0, ids.shape[1] :].tolist())
    return folder, answers


def _prompts(folder, space):
    return [PromptEmbeds.from_peft(folder, space, before=space.embed(text)) for text in PROMPTS]


def test_the_in_process_engine_answers_as_peft_does(trained, smollm2):
    folder, answers = trained
    engine = TransformersEngine(smollm2)
    sampling = Sampling(max_tokens=NEW_TOKENS)
    with_adapter = [list(c.token_ids) for c in engine.generate(_prompts(folder, smollm2), sampling)]
    without = [list(c.token_ids) for c in engine.generate(map(smollm2.embed, PROMPTS), sampling)]
    assert with_adapter == answers
    assert without != answers, "the adapter changes nothing, so this shows nothing"


@pytest.mark.server
def test_the_vllm_server_answers_as_peft_does(trained, smollm2, vllm_client):
    folder, answers = trained
    sampling = Sampling(max_tokens=NEW_TOKENS, logprobs=2)
    served = list(vllm_client.generate(_prompts(folder, smollm2), sampling))
    in_process = list(TransformersEngine(smollm2).generate(_prompts(folder, smollm2), sampling))
    assert [list(completion.token_ids) for completion in in_process] == answers
    # The server may compute in bfloat16: where its rounding decides a near-tie, the texts may part, and nowhere else.
    assert compare_greedy("adapter", served, in_process).values["different"] == 0
    without = list(vllm_client.generate(map(smollm2.embed, PROMPTS), sampling))
    assert [completion.text for completion in without] != [completion.text for completion in served]
