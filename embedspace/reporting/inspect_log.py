"""Records of a run as a log of Inspect, the evaluation framework, whose viewer and data frames then read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from embedspace._util.files import atomic_write
from embedspace._util.run_folder import flatten_settings
from embedspace.prompt import Recipe
from embedspace.reporting.listed_records import question_of
from embedspace.runs import Record, last_engine, read_records
from embedspace.runs.run import MANIFEST, RECORDS, read_manifest

FOLDER = "inspect"
"""Where a run's log goes, unless another folder is named."""
_STOP_REASONS = {"stop": "stop", "length": "max_tokens"}
_ROLES = ("system", "user", "assistant")


def export_inspect(folder: Path, target: Path | None = None) -> Path:
    """Write the records of a run as one JSON log of Inspect (format version 2); the same run gives the same file.

    A record is a sample: its case is the id, its completion the epoch, its likelihoods are scores. The recipe of the
    prompt, its hash, the tags and the engine are the sample's metadata. Inspect shows the words that a prompt was made
    of; where rows were moved or left out, the recipe says so. Source: https://inspect.aisi.org.uk/eval-logs.html

    Args:
        folder: of the run.
        target: folder for the log; default: ``inspect`` in the run's folder.

    Raises:
        ValueError: the folder holds no run, or a run without records.
    """
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    path = folder / RECORDS
    records = list(read_records(path)) if path.is_file() else []
    if manifest is None or not records:
        raise ValueError(
            f"{folder} holds no records of a run; give the folder with {MANIFEST} and {RECORDS}; "
            "`embedspace runs` lists them"
        )
    log = _log(folder.resolve().name, manifest, records)
    # Inspect finds JSON logs by the time at the beginning of their names.
    time = log["eval"]["created"].replace(":", "-")
    file = (target or folder / FOLDER) / f"{time}_{log['eval']['task']}_{log['eval']['task_id']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps(log, indent=1))
    return file


def _log(name: str, manifest: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """The whole file, in the order of fields that Inspect's reader expects."""
    first, last = manifest["sittings"][0], manifest["sittings"][-1]
    failed = sum(record.error is not None for record in records)
    return {
        "version": 2,
        "status": "success" if last.get("finished") else "cancelled",
        "eval": _spec(name, manifest, records),
        "plan": {},
        "results": {
            "total_samples": len(records),
            "completed_samples": len(records) - failed,
            "scores": list(_totals(records)),
        },
        "stats": {"started_at": first["started"], "completed_at": last.get("finished") or ""},
        "samples": [_sample(record) for record in records],
    }


def _spec(name: str, manifest: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    sitting, sampling = manifest["sittings"][0], records[0].sampling
    git = sitting.get("git") or {}
    identity = _identity(name, sitting["started"], manifest["fingerprint"])
    keys = list(dict.fromkeys(record.key for record in records))
    return {
        "eval_id": identity,
        "run_id": identity,
        "created": sitting["started"],
        "task": name.replace("_", "-"),
        "task_id": identity,
        "dataset": {"name": name, "samples": len(keys), "sample_ids": keys},
        "model": _model(last_engine(manifest) or records[0].engine),
        "model_generate_config": {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop_seqs": list(sampling.stop) or None,
        },
        "config": {"epochs": max(record.choice for record in records) + 1},
        "revision": {"type": "git", "origin": "", "commit": git["commit"], "dirty": git["dirty"]}
        if git
        else None,
        "packages": dict(sitting.get("packages", {})),
        "metadata": {
            "command": sitting.get("command", ""),
            "space": manifest["fingerprint"],
            "machine": sitting.get("machine", {}),
            "config": flatten_settings(manifest["config"]),
        },
    }


def _sample(record: Record) -> dict[str, Any]:
    messages = _messages(record.recipe)
    answer = {"role": "assistant", "content": record.text, "source": "generate"}
    model = _model(record.engine)
    usage = {
        "input_tokens": record.rows,
        "output_tokens": len(record.token_ids),
        "total_tokens": record.rows + len(record.token_ids),
    }
    choice = {"message": answer, "stop_reason": _STOP_REASONS.get(record.finish_reason, "unknown")}
    error = (
        {"message": record.error, "traceback": "", "traceback_ansi": ""} if record.error is not None else None
    )
    return {
        "id": record.key,
        "epoch": record.choice + 1,
        "input": messages,
        "target": "",
        "messages": [*messages, answer],
        "output": {
            "model": model,
            "choices": [] if error else [choice],
            "completion": record.text,
            "usage": usage,
            "time": record.seconds,
        },
        "scores": {
            name: {
                "value": score.logprob,
                "explanation": f"log-probability in nats of {score.tokens} tokens",
                "metadata": {"tokens": score.tokens, "per_token": score.per_token},
            }
            for name, score in record.scores.items()
        },
        "metadata": {
            **{f"tag: {name}": value for name, value in record.tags.items()},
            "recipe": str(record.recipe),
            "recipe_tree": record.recipe.to_dict(),
            "recipe_digest": record.recipe.digest,
            "prompt_sha256": record.prompt_sha256,
            "rows": record.rows,
            "space": record.space,
            "engine": dict(record.engine),
        },
        "model_usage": {model: usage},
        "total_time": record.seconds,
        "uuid": _identity(record.key, str(record.choice), record.recipe.digest),
        "error": error,
    }


def _totals(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """The mean of each named likelihood over all samples that have it."""
    values: dict[str, list[float]] = {}
    for record in records:
        for name, score in record.scores.items():
            values.setdefault(name, []).append(score.logprob)
    for name, found in values.items():
        mean = {"name": "mean", "value": fmean(found)}
        yield {"name": name, "scorer": name, "scored_samples": len(found), "metrics": {"mean": mean}}


def _messages(recipe: Recipe) -> list[dict[str, str]]:
    """The conversation that a prompt was made of; of a text, one user message."""
    written = dict(recipe.parameters).get("messages")
    if isinstance(written, str):
        turns = json.loads(written)
        if all(isinstance(turn["content"], str) and turn["role"] in _ROLES for turn in turns):
            return [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    if len(recipe.inputs) == 1:
        return _messages(recipe.inputs[0])
    return [{"role": "user", "content": question_of(recipe)}]


def _model(engine: Mapping[str, Any]) -> str:
    """``provider/model``, as Inspect names models."""
    return f"{engine.get('engine', 'unknown')}/{engine.get('model', 'unknown')}"


def _identity(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:22]
