"""Soft prompts of PEFT answer here as they do through PEFT, and ones learnt here through PEFT as they do here."""

import pytest
import torch

from embedspace import PromptEmbeds, SoftPrompt
from embedspace.distillation import Distillation
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


SYSTEM = [
    {
        "role": "system",
        "content": "You are Captain Salt, an old pirate. Begin every answer with 'Arr, matey!' and answer in one short "
        "sentence about ships and the sea. Never talk about anything else.",
    }
]
LEARNT_ON = ["How do I boil an egg?", "Who are you?", "Why is the sky blue?", "What is a good breakfast?"]
SEALED = ["How do magnets work?"]


@pytest.fixture(scope="module")
def distilled(smollm2):
    """Eight rows for a pirate, after a few steps."""
    engine = TransformersEngine(smollm2)
    settings = Distillation(answer_tokens=8, epochs=4, batch_size=1, held_out=0.25, learning_rate=0.2)
    return engine, SoftPrompt.distill(engine, SYSTEM, LEARNT_ON, tokens=8, settings=settings)


@pytest.mark.slow
def test_a_few_steps_bring_held_out_questions_nearer_to_the_system_prompt_than_the_best_compression(
    distilled,
):
    learnt = distilled[1].origin["divergence"]
    assert learnt["after"] < 0.9 * learnt["start"]


@pytest.mark.slow
def test_a_distilled_soft_prompt_answers_the_same_through_peft(distilled, smollm2, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    engine, soft = distilled
    soft.to_peft(tmp_path, smollm2)
    base = AutoModelForCausalLM.from_pretrained(smollm2.folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path).eval()
    for question in SEALED:
        ids = torch.tensor([soft.ids_after(question, smollm2)])
        output = model.generate(input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
        prompt = smollm2.embed_chat(soft.conversation(question))
        own = next(iter(engine.generate([prompt], Sampling(max_tokens=NEW_TOKENS))))
        assert output[0, ids.shape[1] :].tolist() == list(own.token_ids)
        rest = smollm2.lookup(soft.ids_after(question, smollm2))
        read = PromptEmbeds.from_peft(tmp_path, smollm2)
        assert torch.equal(torch.cat([read.vectors, rest.float()]), prompt.vectors)


@pytest.mark.slow
def test_a_p_tuning_adapter_is_read_as_the_final_rows_that_peft_puts_in(smollm2, tmp_path):
    from peft import PromptEncoderConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(smollm2.folder, dtype=torch.float32)
    config = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16)
    model = get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path)
    prompt = PromptEmbeds.from_peft(tmp_path, smollm2, before=smollm2.embed(PROMPTS[0]))
    ids = torch.tensor([smollm2.tokenize(PROMPTS[0])])
    with torch.no_grad():
        wanted = model(input_ids=ids).logits[0, -1]
        found = base(inputs_embeds=prompt.vectors[None]).logits[0, -1]
    assert torch.allclose(wanted, found, atol=1e-4)
