"""Commands about models: ``models``, ``verify``, ``distill``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from embedspace.cli.tables import unabridged


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the command line."""
    models = commands.add_parser("models", help="list the models, projectors, filters and vectors at hand")
    models.set_defaults(run=_models)
    models.add_argument("--prepare", action="store_true", help="prepare all models that are installed")

    verify = commands.add_parser("verify", help="check that text and its embeddings are the same thing")
    verify.set_defaults(run=_verify)
    verify.add_argument("model", help="packaged name, local folder or hub id")
    verify.add_argument(
        "--table",
        metavar="TENSOR",
        help="the embedding table's tensor, for an architecture that is not known",
    )
    verify.add_argument("--server", metavar="URL", help="check this vLLM server as well")
    verify.add_argument(
        "--quick",
        action="store_true",
        help="do not load the model's layers: answers are checked at the server only",
    )
    verify.add_argument("--json", metavar="FILE", type=Path, help="write the certificate as JSON")

    distill = commands.add_parser("distill", help="learn a style vector from an instruction (takes minutes)")
    distill.set_defaults(run=_distill)
    distill.add_argument(
        "style", help="an instruction such as 'Answer like a pirate.', or the name of a packaged vector"
    )
    distill.add_argument("--out", type=Path, required=True, help="file to write")
    distill.add_argument(
        "--model", default="smollm2-135m-instruct", help="packaged name, local folder or hub id"
    )


_SHIPPED = {
    "projector; Projector.from_pretrained": "projector/weights/*/",
    "safety filter; SafetyFilter.from_pretrained": "safety/weights/*/",
    "style vector; StyleVector.from_pretrained": "style/vectors/*.safetensors",
}
"""What is at hand beside models, and where it lies in the package."""


def _models(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from embedspace.models import PACKAGED, cache_folder

    table = unabridged(Table("name", "what it is", "licence", "where"))
    for model in PACKAGED.values():
        if not model.installed():
            where = f"not installed: {model.install_command}"
        elif options.prepare:
            print(f"preparing {model.name} ...", flush=True)
            where = str(model.folder(cache_folder()))
        else:
            folder = model.prepared_folder(cache_folder())
            where = str(folder) if folder.is_dir() else "installed; prepared at first use"
        table.add_row(model.name, f"{model.source}; {model.role}", model.licence, where)
    package = Path(__file__).parents[1]
    for what, pattern in _SHIPPED.items():
        for path in sorted(package.glob(pattern)):
            table.add_row(path.stem, what, "Apache-2.0", str(path))
    Console().print(table)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from embedspace.verification import Check, verify

    console = Console()

    def show(check: Check) -> None:
        mark = "[green]passed[/]" if check.passed else "[red]FAILED[/]"
        console.print(f"{mark} {check.name}", highlight=False)

    # The key comes from the environment: an argument would stand in the process list.
    certificate = verify(
        options.model,
        table=options.table,
        server=options.server,
        api_key=os.environ.get("VLLM_API_KEY"),
        quick=options.quick,
        progress=show,
    )
    table = Table("check", "result", "measured", title=f"{certificate.model}  {certificate.fingerprint}")
    for check in certificate.checks:
        table.add_row(check.name, "passed" if check.passed else "FAILED", check.detail)
    console.print(table)
    if options.json:
        options.json.write_text(certificate.to_json())
        console.print(f"certificate written to {options.json}")
    return 0 if certificate.passed else 1


def _distill(options: argparse.Namespace) -> int:
    from embedspace.engines import TransformersEngine
    from embedspace.style import StyleVector, packaged_recipe

    if options.out.is_dir():  # said before the minutes of learning
        raise ValueError(
            f"--out {options.out} is a folder; name a file in it, such as {options.out / 'style.safetensors'}"
        )
    recipe = packaged_recipe(options.style)
    instruction, examples = (options.style, ()) if recipe is None else recipe
    vector = StyleVector.distill(TransformersEngine(options.model), instruction, examples=examples)
    vector.save(options.out)
    learnt = dict(vector.recipe.parameters)
    print(
        f"divergence on held-out questions: {learnt['divergence_without']:.2f} without the vector, "
        f"{learnt['divergence']:.2f} with it (nats per token)"
    )
    print(f"written to {options.out}")
    return 0
