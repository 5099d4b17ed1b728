"""The parity certificate: the order of its checks, and those that need no server."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from embedspace._util.extras import pip_install
from embedspace._util.files import file_digest
from embedspace._util.progress import Advance
from embedspace._util.progress import progress as progress_bar
from embedspace._util.provenance import package_versions
from embedspace.engines import Completion, TransformersEngine
from embedspace.models import MANIFEST
from embedspace.prompt import PromptEmbeds
from embedspace.space import EmbeddingSpace, content_fingerprint
from embedspace.verification.certificate import Certificate, Check, compare_greedy, greedy_answers
from embedspace.verification.prompt_form import PromptForm
from embedspace.verification.prompts import ANSWERED_PROMPTS, PARITY_PROMPTS
from embedspace.verification.server import SERVER_STEPS, check_server, same_model


def verify(
    model: str,
    *,
    table: str | None = None,
    server: str | None = None,
    api_key: str | None = None,
    quick: bool = False,
    progress: Callable[[Check], None] | None = None,
) -> Certificate:
    """Check that a model, and optionally its server, treat text and its embeddings alike.

    A base model, which has no chat template, is given plain text with its special tokens, and the certificate says so.
    The server is asked first, since it fails soonest; how long the rest takes is shown on stderr.

    Args:
        model: packaged name, local folder or hub id.
        table: name of the embedding table's tensor, for an architecture that is not known to take plain rows.
        server: address of a vLLM server to check as well.
        api_key: for that server.
        quick: do not load the model's layers, for one that does not fit into memory here: table, rows, tokens and
            content mask are checked in process, answers at the server only.
        progress: called with each finished check.

    Raises:
        ValueError: the model cannot be loaded, or ``quick`` without ``accelerate``.
    """
    if quick and find_spec("accelerate") is None:
        raise ValueError(f"a quick verification needs accelerate: {pip_install('models')}")
    space = EmbeddingSpace.from_pretrained(model, table=table)
    checks = []
    steps = (0 if quick else 4 * ANSWERED_PROMPTS) + (SERVER_STEPS if server else 0)
    with progress_bar("verifying", steps, shown=steps > 0) as advance:
        for check in _all_checks(space, server, api_key, quick, advance):
            checks.append(check)
            if progress is not None:
                progress(check)
    versions = {"python": platform.python_version(), **package_versions()}
    return Certificate(model, space.fingerprint, server, tuple(checks), versions)


def _all_checks(
    space: EmbeddingSpace, server: str | None, api_key: str | None, quick: bool, advance: Advance
) -> Iterator[Check]:
    form = PromptForm(space)
    yield _table(space)
    if not form.is_chat:
        yield form.skipped()
    yield _tokens(form)
    prompts = form.prompts(PARITY_PROMPTS)
    ids = [form.ids(text) for text in PARITY_PROMPTS]
    yield _content(space, prompts, ids)
    prompts, ids = prompts[:ANSWERED_PROMPTS], ids[:ANSWERED_PROMPTS]
    answers: list[Completion] = []
    if server is not None:
        yield from check_server(form, server, api_key, prompts, ids, answers, advance)
    if quick:
        yield _rows(space, _embedding_module(space))
        return
    engine = TransformersEngine(space)  # in the dtype that is the default for this model
    yield _rows(space, copy.deepcopy(engine.model.get_input_embeddings()))
    yield _logits(engine, prompts, ids, advance)
    by_rows, by_ids = (greedy_answers(engine, group, advance) for group in (prompts, ids))
    yield compare_greedy("greedy answers", by_rows, by_ids)
    engine.close()
    if answers:
        yield same_model(answers, by_rows)


def _table(space: EmbeddingSpace) -> Check:
    """Finite rows of plausible norms, and a file that matches its recorded checksum and fingerprint."""
    faults, dtype = [], str(space.dtype).removeprefix("torch.")
    bad = (~space.norms.isfinite()).nonzero().flatten().tolist()
    if bad:
        faults.append(f"{len(bad)} rows are not finite (row {bad[0]})")
    typical = float(space.norms[space.norms.isfinite()].median())
    outliers = int((space.norms > 100 * typical).sum())
    if outliers:
        faults.append(f"{outliers} rows have more than 100 times the median norm of {typical:.3g}")
    recorded = _recorded_digest(space.table.path)
    if recorded is not None and recorded != file_digest(space.table.path):
        faults.append(
            f"{space.table.path.name} is not the file that was recorded when the model was prepared"
        )
    if content_fingerprint(space.folder, space.table) != space.fingerprint:
        faults.append("the cached fingerprint is not that of the files")
    detail = "; ".join(faults) or (
        f"{space.vocab_size} rows of {space.hidden_size}, {dtype}, median norm {typical:.3g}, "
        + ("checksum as recorded" if recorded else "no recorded checksum to compare with")
    )
    return Check("embedding table", not faults, detail, {"rows": space.vocab_size, "dtype": dtype})


def _recorded_digest(path: Path) -> str | None:
    """The checksum recorded at preparation, or the name of the file in a hub's cache, which is its checksum."""
    manifest = path.parent / MANIFEST
    if manifest.is_file():
        recorded = json.loads(manifest.read_text())["sha256"].get(path.name)
        return None if recorded is None else str(recorded)
    blob = path.resolve().name
    return blob if len(blob) == 64 and path.is_symlink() else None


def _embedding_module(space: EmbeddingSpace) -> torch.nn.Module:
    """The model's own embedding module with the rows of the file; all other weights stay without memory."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(space.folder, local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=space.dtype)
    module: torch.nn.Module = model.get_input_embeddings()
    module.load_state_dict({"weight": space.table.rows}, assign=True)
    return module


def _rows(space: EmbeddingSpace, own: torch.nn.Module) -> Check:
    """Every row of the vocabulary against the model's own embedding module, bit for bit."""
    module = own.to(space.dtype).cpu()
    different, largest = 0, 0.0
    for ids in torch.arange(space.vocab_size).split(8192):
        with torch.no_grad():
            gap = (module(ids).float() - space.lookup(ids.tolist()).float()).abs().amax(dim=1)
        different += int((gap > 0).sum())
        largest = max(largest, float(gap.max()))
    detail = f"{different} of {space.vocab_size} rows differ from the model's own embedding module"
    if space.table.scale != 1:
        dtype = str(space.dtype).removeprefix("torch.")
        detail += f"; they are scaled by {space.table.scale:.4g} in {dtype}, and all checks here hold for that dtype"
    return Check("rows", different == 0, detail, {"different_rows": different, "largest_difference": largest})


def _tokens(form: PromptForm) -> Check:
    """Token ids against those of transformers' own tokenizer and template."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(form.space.folder, local_files_only=True)
    different = [
        text
        for text in PARITY_PROMPTS
        if form.reference_ids(tokenizer, text) != form.ids(text)
        or tokenizer.encode(text, add_special_tokens=False) != form.space.tokenize(text)
    ]
    detail = f"{len(different)} of {len(PARITY_PROMPTS)} prompts tokenise differently from transformers"
    return Check("tokens", not different, detail, {"different_prompts": len(different)})


def _content(space: EmbeddingSpace, prompts: Sequence[PromptEmbeds], ids: Sequence[list[int]]) -> Check:
    """Content rows decode to the text; the other rows are the same for every text."""
    frames, misread = set(), 0
    for text, prompt, tokens in zip(PARITY_PROMPTS, prompts, ids, strict=True):
        own, around = (torch.tensor(tokens)[rows].tolist() for rows in (prompt.content, ~prompt.content))
        misread += "".join(space.tokenizer.decode(own).split()) != "".join(text.split())
        frames.add("".join(space.tokenizer.decode(around).split()))
    detail = (
        f"the content rows of {misread} of {len(PARITY_PROMPTS)} messages do not decode to them; "
        f"{len(frames)} variant{'s' * (len(frames) > 1)} of the template's rows"
    )
    return Check(
        "content mask", not misread and len(frames) == 1, detail, {"misread": misread, "frames": len(frames)}
    )


@torch.inference_mode()
def _logits(
    engine: TransformersEngine, prompts: Sequence[PromptEmbeds], ids: Sequence[list[int]], advance: Advance
) -> Check:
    """Logits at every position, of token ids and of embeddings."""
    largest, switched = 0.0, 0
    for prompt, tokens in zip(prompts, ids, strict=True):
        rows = prompt.vectors[None].to(engine.device, engine.dtype)
        by_rows = engine.model(inputs_embeds=rows).logits
        advance()
        by_ids = engine.model(input_ids=torch.tensor([tokens], device=engine.device)).logits
        advance()
        largest = max(largest, float((by_rows - by_ids).abs().max()))
        switched += int((by_rows.argmax(-1) != by_ids.argmax(-1)).sum())
    detail = f"largest difference {largest:.3g}; the most likely token differs at {switched} positions"
    return Check("logits", switched == 0 and largest < 1e-2, detail, {"largest_difference": largest})
