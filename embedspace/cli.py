"""The command ``embedspace run | models | serve | verify | cache | gateway | playground | runs | ...``."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedspace._util import entry_points
from embedspace._util.extras import pip_install
from embedspace._version import __version__
from embedspace.errors import EngineError
from embedspace.gateway.process import add_arguments as add_gateway_arguments
from embedspace.playground.server import add_arguments as add_playground_arguments

if TYPE_CHECKING:
    from rich.table import Table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 is success, 1 a failed check or engine or a difference, 2 wrong use."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words[:1] in (["run"], ["train"]):  # all other words are Hydra's, those with dashes included
            entry_points.start(words[0], words[1:])
        options = _parser().parse_args(words)
        status: int = options.run(options)
        return status
    except (ValueError, OSError, EngineError) as error:
        print(f"embedspace: {error}", file=sys.stderr)
        return 1 if isinstance(error, EngineError) else 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embedspace", description="Language-model prompts in embedding space."
    )
    parser.add_argument("--version", action="version", version=f"embedspace {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    entry_points.add_commands(commands)
    _add_model_commands(commands)
    _add_result_commands(commands)
    gateway = commands.add_parser(
        "gateway", help="put a filter before a vLLM server that takes prompt embeddings"
    )
    gateway.set_defaults(run=_gateway)
    add_gateway_arguments(gateway)
    playground = commands.add_parser(
        "playground", help="a local web page that moves a prompt and shows the answers"
    )
    playground.set_defaults(run=_playground)
    add_playground_arguments(playground)
    return parser


def _add_model_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    models = commands.add_parser("models", help="list the models, projectors, filters and vectors at hand")
    models.set_defaults(run=_models)
    models.add_argument("--prepare", action="store_true", help="prepare all models that are installed")

    serve = commands.add_parser("serve", help="serve a model with vLLM, ready for prompt embeddings")
    serve.set_defaults(run=_serve)
    serve.add_argument("model", help="packaged name, local folder or hub id")
    serve.add_argument("--port", type=int, default=None, help="default: a free one")
    serve.add_argument(
        "--dtype", help="default: bfloat16, or float32 on a processor that is slow in bfloat16"
    )
    serve.add_argument("--max-model-len", type=int, default=2048)

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


def _add_result_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cache = commands.add_parser("cache", help="look at a cache of prompts, check it, or make it smaller")
    cache.set_defaults(run=_cache)
    cache.add_argument("path", type=Path, help="the cache's file")
    cache.add_argument("action", choices=("stats", "verify", "prune"))
    cache.add_argument(
        "--max-size", type=size_in_bytes, help="prune: keep at most this, such as 500M or 2G; default: 4G"
    )

    replay = commands.add_parser(
        "replay", help="make a recorded prompt again from its recipe and compare the bits"
    )
    replay.set_defaults(run=_replay)
    replay.add_argument("records", type=Path, help="records.jsonl of a run")
    replay.add_argument("--index", type=int, required=True, help="which record, counted from 0")
    replay.add_argument("--model", help="default: the one that run.json names")
    replay.add_argument(
        "--vector", metavar="FILE", action="append", default=[],
        help="a style vector that StyleVector.save wrote, or the folder of a SoftPrompt",
    )  # fmt: skip

    distill = commands.add_parser("distill", help="learn a style vector from an instruction (takes minutes)")
    distill.set_defaults(run=_distill)
    distill.add_argument(
        "style", help="an instruction such as 'Answer like a pirate.', or the name of a packaged vector"
    )
    distill.add_argument("--out", type=Path, required=True, help="file to write")
    distill.add_argument(
        "--model", default="smollm2-135m-instruct", help="packaged name, local folder or hub id"
    )

    runs = commands.add_parser(
        "runs",
        help="list runs, open a report, lay two runs side by side, or export one",
        usage="%(prog)s [-h] [FOLDER | open FOLDER | compare FOLDER FOLDER | export FOLDER] [--html FILE] [--format "
        "FORMAT] [--out FOLDER]",
    )
    runs.set_defaults(run=_runs)
    runs.add_argument(
        "words",
        nargs="*",
        metavar="FOLDER",
        help="list the runs below a folder (default: runs); or open and the folder of a run; or compare and the "
        "folders of two runs; or export and the folder of a run",
    )
    runs.add_argument(
        "--html", metavar="FILE", type=Path, help="compare: the page to write; default: compared.html"
    )
    runs.add_argument(
        "--format", choices=("inspect",), default="inspect", help="export: a log that Inspect reads"
    )
    runs.add_argument(
        "--out", metavar="FOLDER", type=Path, help="export: for the log; default: inspect in the run's folder"
    )

    diff = commands.add_parser("diff", help="what differs between two runs")
    diff.set_defaults(run=_diff)
    diff.add_argument("first", type=Path, help="folder of a run")
    diff.add_argument("second", type=Path)
    diff.add_argument("--html", metavar="FILE", type=Path, help="also write both runs side by side as a page")


def _fold(table: Table) -> None:
    """Break long names over lines instead of cutting them."""
    for column in table.columns:
        column.overflow = "fold"


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

    table = Table("name", "what it is", "licence", "where")
    _fold(table)
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
    package = Path(__file__).parent
    for what, pattern in _SHIPPED.items():
        for path in sorted(package.glob(pattern)):
            table.add_row(path.stem, what, "Apache-2.0", str(path))
    Console().print(table)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from embedspace.engines import VLLMServer

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with VLLMServer(
        options.model, dtype=options.dtype, max_model_len=options.max_model_len, port=options.port
    ) as server:
        print(
            f"serving {server.model} at {server.url} (log: {server.log_path}); stop with Ctrl-C", flush=True
        )
        return server.wait()


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


def _cache(options: argparse.Namespace) -> int:
    from embedspace.cache import EmbeddingCache

    if not options.path.is_file():
        raise ValueError(f"there is no cache at {options.path}")
    if options.max_size is not None and options.action != "prune":
        raise ValueError(f"--max-size belongs to prune, not to {options.action}")
    with EmbeddingCache(options.path) as cache:
        if options.action == "stats":
            counts = cache.stats()
            print(
                f"{counts.entries:,} entries, {counts.value_bytes:,} bytes; the file has {counts.file_bytes:,}"
            )
            return 0
        if options.action == "prune":
            gone = cache.prune(options.max_size)
            print(
                f"{gone.damaged:,} damaged and {gone.evicted:,} old entries dropped, {gone.freed_bytes:,} bytes freed"
            )
            return 0
        found = cache.verify()
        print(f"{found.entries:,} entries, {len(found.damaged):,} damaged", *found.problems, sep="\n")
        return 0 if found.sound else 1


def _gateway(options: argparse.Namespace) -> int:
    from embedspace.gateway.process import read_settings

    try:
        from embedspace.gateway.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; the gateway needs more packages: {pip_install('gateway')}") from None
    serve(read_settings(options))
    return 0


def _playground(options: argparse.Namespace) -> int:
    from embedspace.playground.server import serve

    try:
        serve(options)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error}; the playground needs more packages: {pip_install('playground')}"
        ) from None
    return 0


def size_in_bytes(text: str) -> int:
    """``500M`` as a number of bytes; K, M, G and T are powers of 1024.

    Raises:
        argparse.ArgumentTypeError: no such size.
    """
    if not (size := re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 500M or 2G")
    return int(float(size[1]) * 1024 ** " KMGT".index(size[2] or " "))


def _replay(options: argparse.Namespace) -> int:
    from embedspace.runs import replay

    done = replay(options.records, options.index, model=options.model, vectors=options.vector)
    verdict = "bit-identical" if done.identical else "NOT the same"
    print(f"{done.record.key}, choice {done.record.choice}: {done.record.recipe}")
    print(f"recorded {done.record.prompt_sha256}  {done.record.rows} rows")
    print(f"replayed {done.digest}  {len(done.prompt)} rows: {verdict}")
    return 0 if done.identical else 1


def _distill(options: argparse.Namespace) -> int:
    from embedspace.engines import TransformersEngine
    from embedspace.style import StyleVector, packaged_recipe

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


def _runs(options: argparse.Namespace) -> int:
    match options.words:
        case []:
            return _list_runs(Path("runs"))
        case ["open", folder]:
            return _open_report(Path(folder))
        case ["compare", first, second]:
            return _compare(Path(first), Path(second), options.html or Path("compared.html"))
        case ["export", folder]:
            return _export(Path(folder), options.out)
        case [folder] if folder not in ("open", "compare", "export"):
            return _list_runs(Path(folder))
        case words:
            raise ValueError(
                f"embedspace runs {' '.join(words)} is not known; give a folder, or open or export and the folder of a "
                "run, or compare and the folders of two runs"
            )


def _open_report(folder: Path) -> int:
    import webbrowser

    from embedspace.runs.run import REPORT

    page = folder / REPORT
    if not page.is_file():
        raise ValueError(f"{folder} has no {REPORT}; the command of its run, given again, writes it")
    print(page)
    webbrowser.open(page.resolve().as_uri())
    return 0


def _compare(first: Path, second: Path, page: Path) -> int:
    from embedspace.reporting import compare_runs

    print(f"side by side: {compare_runs(first, second, page)}")
    return 0


def _export(folder: Path, target: Path | None) -> int:
    from embedspace.reporting import export_inspect

    log = export_inspect(folder, target)
    print(log)
    print(f"to look at it: inspect view --log-dir {log.parent} ({pip_install('inspect')})")
    return 0


def _list_runs(below: Path) -> int:
    from rich.console import Console
    from rich.table import Table

    from embedspace.runs import last_engine, read_records
    from embedspace.runs.run import RECORDS, REPORT, read_manifest

    table = Table("folder", "model", "engine", "records", "failed", "started", "report")
    _fold(table)
    for manifest_path in sorted(below.rglob("run.json")):
        folder = manifest_path.parent
        manifest = read_manifest(folder)
        if manifest is None or "fingerprint" not in manifest:
            continue  # a corpus or a training
        engine = last_engine(manifest)
        path = folder / RECORDS
        errors = [record.error is not None for record in read_records(path)] if path.is_file() else []
        table.add_row(
            str(folder),
            str(engine.get("model", "")),
            str(engine.get("engine", "")),
            str(len(errors)),
            str(sum(errors)),
            manifest["sittings"][0]["started"][:16].replace("T", " "),
            REPORT if (folder / REPORT).is_file() else "",
        )
    if not table.row_count:
        print(f"there are no runs below {below}; embedspace run experiment=... makes one")
        return 0
    Console().print(table)
    return 0


def _diff(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from embedspace.runs import differences

    found = differences(options.first, options.second)
    if options.html:
        _compare(options.first, options.second, options.html)
    if not found:
        print("the runs are the same")
        return 0
    table = Table("what", "", str(options.first), str(options.second))
    for each in found:
        table.add_row(*(Text(cell) for cell in (each.kind, each.name, each.first, each.second)))
    # A file or another program takes lines of any length, and is searched for whole names.
    Console(width=None if sys.stdout.isatty() else 240).print(table)
    return 1


if __name__ == "__main__":
    sys.exit(main())
