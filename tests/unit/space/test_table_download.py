"""The table of a hub's model without the model, against a hub on this machine."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from embedspace import EmbeddingSpace, models
from embedspace.models import hub
from embedspace.models.packaged import MANIFEST
from embedspace.models.remote_tensor import RemoteFile, RemoteTensor
from embedspace.space.table_download import table_folder
from tests.checkpoints import make_tiny_checkpoint
from tests.local_hub import Fault, LocalHub

MODEL = "maker/model"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
ASK = f"from embedspace import EmbeddingSpace; print(EmbeddingSpace.from_pretrained({MODEL!r}).fingerprint)"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made = {}

    def make(family="llama", *, tied=False, sharded=True, seed=0):
        key = (family, tied, sharded, seed)
        if key not in made:
            made[key] = make_tiny_checkpoint(
                tmp_path_factory.mktemp(family),
                family,
                hidden_size=128,
                layers=12,
                tied=tied,
                seed=seed,
                max_shard_size="1MB" if sharded else "5GB",
            )
        return made[key]

    return make


def connect(monkeypatch, tmp_path, served):
    """Point this process at a local hub, with caches of its own and no pauses."""
    template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": served.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("EMBEDSPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "RETRY_DELAYS", (0.0, 0.0, 0.0))


@pytest.fixture
def served(monkeypatch, tmp_path):
    with LocalHub().running() as local:
        connect(monkeypatch, tmp_path, local)
        yield local


@pytest.fixture
def plain(monkeypatch, tmp_path):
    """A hub without a store for large files: only entity tags tell one version from another."""
    with LocalHub(large=()).running() as local:
        connect(monkeypatch, tmp_path, local)
        yield local


def environment(local, tmp_path, **changes):
    return {
        **os.environ,
        "HF_ENDPOINT": local.url,
        "HF_HOME": str(tmp_path / "hf_home"),
        "HF_HUB_OFFLINE": "0",
        "EMBEDSPACE_CACHE": str(tmp_path / "cache"),
        **changes,
    }


def process(code, env):
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def table_bytes(space):
    return space.table.rows.numel() * space.table.rows.element_size()


def copied(folder, target):
    return Path(shutil.copytree(folder, target))


@pytest.mark.parametrize(
    ("family", "tied", "sharded"),
    [
        ("llama", False, True),
        ("llama", True, False),
        ("qwen3", True, True),
        ("gemma3", True, True),
        ("phi3", False, True),
        ("gpt2", True, False),
    ],
)
def test_the_space_is_that_of_the_whole_model_and_only_the_table_crosses_the_wire(
    served, checkpoint, family, tied, sharded
):
    folder = checkpoint(family, tied=tied, sharded=sharded)
    assert (folder / "model.safetensors.index.json").exists() == sharded
    served.publish(MODEL, folder)
    local, remote = EmbeddingSpace.from_pretrained(folder), EmbeddingSpace.from_pretrained(MODEL)
    assert remote.fingerprint == local.fingerprint
    assert torch.equal(remote.table.rows, local.table.rows)
    assert remote.embed_chat(MESSAGES).vectors.equal(local.embed_chat(MESSAGES).vectors)
    assert (remote.dtype, remote.context_length) == (local.dtype, local.context_length)

    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    small = sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".safetensors")
    crossed = sum(served.sent.values())
    assert served.sent["store"] < table_bytes(local) + 20_000  # safetensors and HTTP headers
    assert crossed < table_bytes(local) + small + 60_000
    assert crossed - small < weights / 8
    kept = sum(path.stat().st_size for path in remote.folder.iterdir())
    assert kept < table_bytes(local) + small + 20_000
    assert {path.name for path in remote.folder.iterdir()} <= {path.name for path in folder.iterdir()} | {
        "model.safetensors",
        MANIFEST,
    }


def test_a_table_that_was_fetched_serves_without_the_hub(served, checkpoint, tmp_path):
    served.publish(MODEL, checkpoint())
    space = EmbeddingSpace.from_pretrained(MODEL)
    served.stop()
    with pytest.warns(RuntimeWarning, match="as it was downloaded before"):
        again = EmbeddingSpace.from_pretrained(MODEL)
    assert (again.fingerprint, again.folder) == (space.fingerprint, space.folder)
    done = process(ASK, environment(served, tmp_path, HF_HUB_OFFLINE="1"))
    out, errors = done.communicate(timeout=120)
    assert out.strip() == space.fingerprint, errors
    assert "Warning" not in errors
    with pytest.raises(ValueError, match="other/model"):
        EmbeddingSpace.from_pretrained("other/model")


def test_a_second_call_fetches_nothing_and_a_commit_needs_no_hub_at_all(served, checkpoint):
    commit = served.publish(MODEL, checkpoint())
    space = EmbeddingSpace.from_pretrained(MODEL)
    before = len(served.requests)
    assert EmbeddingSpace.from_pretrained(MODEL).folder == space.folder
    assert [a.path for a in served.requests[before:]] == [f"/api/models/{MODEL}/revision/main"]
    before = len(served.requests)
    assert EmbeddingSpace.from_pretrained(MODEL, revision=commit).folder == space.folder
    assert len(served.requests) == before


def test_a_revision_is_pinned_and_main_may_move_on(served, checkpoint, tmp_path):
    first, second = checkpoint(seed=0), checkpoint(seed=1)
    old = served.publish(MODEL, first)
    space = EmbeddingSpace.from_pretrained(MODEL)
    new = served.publish(MODEL, second)
    served.publish(MODEL, first, branch="refs/pr/1")
    moved = EmbeddingSpace.from_pretrained(MODEL)
    assert moved.fingerprint == EmbeddingSpace.from_pretrained(second).fingerprint != space.fingerprint
    for revision, expected in ((old, space), (new, moved), ("refs/pr/1", space)):
        assert EmbeddingSpace.from_pretrained(MODEL, revision=revision).fingerprint == expected.fingerprint
    with pytest.raises(ValueError, match="no such revision"):
        EmbeddingSpace.from_pretrained(MODEL, revision="nowhere")
    with pytest.raises(ValueError, match="for models of a hub"):
        EmbeddingSpace.from_pretrained(first, revision="main")


def test_a_new_commit_with_the_same_weights_does_not_fetch_the_table_again(served, checkpoint, tmp_path):
    folder = copied(checkpoint(), tmp_path / "copy")
    old = served.publish(MODEL, folder)
    space = EmbeddingSpace.from_pretrained(MODEL)
    (folder / "README.md").write_text("a better description")
    assert served.publish(MODEL, folder) != old
    before = served.sent["store"]
    assert EmbeddingSpace.from_pretrained(MODEL).fingerprint == space.fingerprint
    assert served.sent["store"] - before < 20_000


@pytest.mark.parametrize("fixture", ["served", "plain"])
def test_a_broken_connection_is_resumed_within_the_range(request, checkpoint, fixture):
    local = request.getfixturevalue(fixture)
    folder = checkpoint()
    local.publish(MODEL, folder)
    whole = EmbeddingSpace.from_pretrained(folder)
    where = "/store/" if fixture == "served" else "-of-"
    # The two parts of the header pass, then the table breaks off twice.
    local.faults = [
        Fault(where, times=2, headers={"X-Passed": "yes"}),
        Fault(where, times=1, cut_after=100_000),
        Fault(where, times=1, cut_after=50_000),
    ]
    assert EmbeddingSpace.from_pretrained(MODEL).fingerprint == whole.fingerprint
    first, second, third = local.parts()[-3:]
    starts = [int(a.range.removeprefix("bytes=").split("-")[0]) for a in (first, second, third)]
    assert starts[1] - starts[0] == 100_000
    assert starts[2] - starts[1] == 50_000
    assert first.body + second.body + third.body == table_bytes(whole)
    assert (third.if_range is not None) == (fixture == "plain")


def test_an_answer_that_is_shorter_than_it_says_is_completed(served, checkpoint):
    served.publish(MODEL, checkpoint())
    served.faults = [
        Fault("/store/", times=2, headers={"X-Passed": "yes"}),
        Fault("/store/", times=1, part=lambda first, last: (first, last - 1000)),
    ]
    space = EmbeddingSpace.from_pretrained(MODEL)
    assert space.fingerprint == EmbeddingSpace.from_pretrained(checkpoint()).fingerprint
    assert served.parts()[-1].body == 1000


FLAT = """
import sys, tracemalloc
from pathlib import Path
from embedspace.models.remote_tensor import RemoteFile, RemoteTensor
tensor = RemoteTensor.locate(RemoteFile(sys.argv[1], None, None), ["model.embed_tokens.weight"])
tracemalloc.start()
tensor.download(Path(sys.argv[2]), lambda there: None)
print(tensor.length, tracemalloc.get_traced_memory()[1])
"""


def test_a_download_holds_little_of_the_table_in_memory(plain, tmp_path):
    from safetensors.torch import save_file

    folder = tmp_path / "large"
    folder.mkdir()
    save_file({"model.embed_tokens.weight": torch.zeros(16_000, 512)}, folder / "model.safetensors")
    plain.publish(MODEL, folder)
    url = f"{plain.url}/{MODEL}/resolve/main/model.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", FLAT, url, str(tmp_path / "table")],
        env=environment(plain, tmp_path),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    length, peak = map(int, done.stdout.split())
    assert length == 16_000 * 512 * 4
    assert peak < length / 8


def test_a_killed_process_leaves_its_bytes_to_the_next(served, checkpoint, tmp_path):
    folder = checkpoint()
    served.publish(MODEL, folder)
    served.faults = [
        Fault("/store/", times=2, headers={"X-Passed": "yes"}),
        Fault("/store/", times=1, cut_after=200_000, hang=True),
    ]
    victim = process(ASK, environment(served, tmp_path))
    assert served.hanging.wait(120)
    draft = wait_for_bytes(tmp_path / "cache" / "hub", 150_000)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=30)
    assert not any((tmp_path / "cache" / "hub").glob("*/*/" + MANIFEST))
    held = draft.stat().st_size
    space = EmbeddingSpace.from_pretrained(MODEL)
    assert space.fingerprint == EmbeddingSpace.from_pretrained(folder).fingerprint
    assert served.parts()[-1].body < table_bytes(space) - held + 1000


def wait_for_bytes(root, least):
    """The unfinished table, once it holds some bytes on the disk."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for part in root.rglob("table.part"):
            if part.stat().st_size > least:
                return part
        time.sleep(0.02)
    raise AssertionError(f"no unfinished table of {least} bytes in {root}")


def test_a_process_stopped_at_its_last_step_leaves_a_whole_table_to_the_next(served, checkpoint):
    served.publish(MODEL, checkpoint())
    space = EmbeddingSpace.from_pretrained(MODEL)
    (space.folder / MANIFEST).unlink()
    space.folder.rename(space.folder.with_name(f"{space.folder.name}.draft"))
    before = served.sent["store"]
    assert EmbeddingSpace.from_pretrained(MODEL).fingerprint == space.fingerprint
    assert served.sent["store"] - before < 20_000


def test_several_processes_at_once_fetch_one_table(served, checkpoint, tmp_path):
    folder = checkpoint()
    served.publish(MODEL, folder)
    env = environment(served, tmp_path)
    processes = [process(ASK, env) for _ in range(3)]
    answers = {done.communicate(timeout=300)[0].strip() for done in processes}
    space = EmbeddingSpace.from_pretrained(folder)
    assert answers == {space.fingerprint}
    assert served.sent["store"] < table_bytes(space) + 20_000


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("/api/", status=401), "set HF_TOKEN"),
        (Fault("/api/", status=403), "set HF_TOKEN"),
        (Fault("/api/", status=404, headers={"X-Error-Code": "RepoNotFound"}), "Check the spelling"),
        (Fault("/api/", status=404), "Check the spelling"),
        (Fault("/api/", status=429), "Too many requests"),
        (Fault("/api/", status=500), "error of its own"),
        (Fault("/api/", body=b"<html>Please sign in to the Wi-Fi</html>"), "does not answer as a model hub"),
        (Fault("/api/", body=b"{}"), "does not answer as a model hub"),
        (Fault("/api/", body=b'{"id": "maker/model"}'), "names no commit"),
        (Fault("/store/", status=401), "set HF_TOKEN"),
        (Fault("/store/", status=404), "Check the spelling"),
        (Fault("/store/", status=429), "Too many requests"),
        (Fault("/store/", status=503), "error of its own"),
        (Fault("/store/", status=416), "damaged"),
        (Fault("/store/", cut_after=0), "Check the spelling, the network"),
        (Fault("/store/", ignore_ranges=True), "ignores byte ranges"),
        (Fault("/store/", headers={"Content-Encoding": "gzip"}), "ignores byte ranges.*compressed"),
        (Fault("/store/", headers={"Content-Range": "apples 1-2/3"}), "ignores byte ranges"),
        (Fault("/store/", announced=lambda a, b: f"bytes {a + 1}-{b + 1}/9999999"), "answers with 'bytes"),
        (Fault("/store/", announced=lambda a, b: f"bytes {a}-{b}/1000"), "listing says"),
        (Fault("/store/", part=lambda a, b: (a, b - 1)), "broke off"),
        (Fault("/store/", part=lambda a, b: (a, b + 1)), "more than"),
        (Fault("/store/", body=b"\xff" * 5_000_000), "listing says"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_of_the_hub_is_explained_and_leaves_no_table(served, checkpoint, tmp_path, fault, said):
    served.publish(MODEL, checkpoint())
    served.faults = [Fault(**vars(fault))]
    with pytest.raises(ValueError, match=f"(?s){said}"):
        EmbeddingSpace.from_pretrained(MODEL)
    assert not any((tmp_path / "cache").rglob("model*.safetensors"))
    served.faults.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space = EmbeddingSpace.from_pretrained(MODEL)
    assert space.fingerprint == EmbeddingSpace.from_pretrained(checkpoint()).fingerprint


@pytest.mark.parametrize("where", ["/api/", "/store/"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_request_to_a_busy_hub_is_repeated(served, checkpoint, where, status):
    served.publish(MODEL, checkpoint())
    served.faults = [Fault(where, times=2, status=status, headers={"Retry-After": "0"})]
    space = EmbeddingSpace.from_pretrained(MODEL)
    assert space.fingerprint == EmbeddingSpace.from_pretrained(checkpoint()).fingerprint
    assert [a.status for a in served.requests if where in a.path][:3] == [
        status,
        status,
        200 if where == "/api/" else 206,
    ]


@pytest.mark.parametrize(
    ("status", "said"), [(401, "set HF_TOKEN"), (429, "Too many requests"), (500, "error of")]
)
def test_an_engine_learns_why_the_hub_gives_no_model(served, checkpoint, status, said):
    served.publish(MODEL, checkpoint())
    served.faults = [Fault("/api/", status=status)]
    with pytest.raises(ValueError, match=said):
        models.resolve(MODEL)
    served.faults = [Fault("/api/", times=1, status=status)] if status != 401 else []
    assert (models.resolve(MODEL) / "model.safetensors.index.json").is_file()


def test_the_wait_that_a_hub_asks_for_is_kept_up_to_a_minute(served, checkpoint, monkeypatch):
    waited = []
    monkeypatch.setattr(hub.time, "sleep", waited.append)
    served.publish(MODEL, checkpoint())
    served.faults = [
        Fault("/api/", times=1, status=429, headers={"Retry-After": "7"}),
        Fault("/api/", times=1, status=429, headers={"RateLimit": '"api";r=0;t=40'}),
        Fault("/api/", times=1, status=429, headers={"Retry-After": "86400"}),
    ]
    with pytest.warns(RuntimeWarning, match="the model hub asks to wait"):
        EmbeddingSpace.from_pretrained(MODEL)
    assert waited == [7, 40, 60]


def test_a_gated_model_says_how_to_get_in(served, checkpoint):
    served.publish(MODEL, checkpoint())
    served.faults = [
        Fault("/resolve/", method=method, status=403, headers={"X-Error-Code": "GatedRepo"})
        for method in ("HEAD", "GET")
    ]
    with pytest.raises(ValueError, match=r"gated: ask for access.*set HF_TOKEN"):
        EmbeddingSpace.from_pretrained(MODEL)
    assert not served.parts()


def test_the_token_goes_to_the_hub_and_never_to_the_store(served, checkpoint, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    served.publish(MODEL, checkpoint())
    EmbeddingSpace.from_pretrained(MODEL)
    assert {a.token for a in served.requests if a.server == "hub"} == {"Bearer hf_secret"}
    assert {a.token for a in served.requests if a.server == "store"} == {None}


def other_version(checkpoint, tmp_path, seed=1):
    return copied(checkpoint(seed=seed), tmp_path / f"version{seed}")


@pytest.mark.parametrize("honours", [True, False])
def test_a_file_that_changes_between_two_attempts_is_not_spliced(plain, checkpoint, tmp_path, honours):
    plain.honours_if_range = honours
    folder = copied(checkpoint(seed=0), tmp_path / "published")
    commit = plain.publish(MODEL, folder)
    plain.faults = [
        Fault("-of-", times=2, headers={"X-Passed": "yes"}),
        Fault("-of-", times=1, cut_after=100_000),
        Fault("-of-", times=100, status=503),
    ]
    with pytest.raises(ValueError, match="error of its own"):
        EmbeddingSpace.from_pretrained(MODEL)
    (part,) = (tmp_path / "cache").rglob("table.part")
    assert part.stat().st_size > 100_000
    for shard in checkpoint(seed=1).glob("*.safetensors"):
        shutil.copy(shard, folder / shard.name)  # the same commit, the same sizes, other weights
    plain.faults.clear()
    space = EmbeddingSpace.from_pretrained(MODEL)
    assert commit in str(space.folder)
    assert space.fingerprint == EmbeddingSpace.from_pretrained(checkpoint(seed=1)).fingerprint


def test_a_file_that_changes_within_a_call_is_begun_again(plain, checkpoint):
    plain.publish(MODEL, checkpoint())
    other = '"of another version"'
    plain.faults = [Fault("-of-", times=1, headers={"ETag": other})]
    space = EmbeddingSpace.from_pretrained(MODEL)
    assert space.fingerprint == EmbeddingSpace.from_pretrained(checkpoint()).fingerprint
    assert len([a for a in plain.parts() if a.range == "bytes=0-7"]) == 2


def test_a_file_that_changes_at_every_request_is_given_up(plain, checkpoint):
    counter = iter(range(1_000))
    plain.tags = lambda data: f'"{next(counter)}"'
    plain.honours_if_range = False
    plain.publish(MODEL, checkpoint())
    with pytest.raises(ValueError, match="another file at every request"):
        EmbeddingSpace.from_pretrained(MODEL)


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_a_strong_tag_nothing_is_resumed(plain, checkpoint, tag):
    folder = checkpoint()
    plain.publish(MODEL, folder)
    # Small files are refused by huggingface_hub itself where they have no tag at all.
    plain.tags = lambda data: tag or (None if len(data) > 500_000 else f'"{hashlib.md5(data).hexdigest()}"')
    plain.faults = [Fault("-of-", times=2), Fault("-of-", times=1, cut_after=100_000)]
    space = EmbeddingSpace.from_pretrained(folder)
    assert EmbeddingSpace.from_pretrained(MODEL).fingerprint == space.fingerprint
    assert plain.parts()[-1].body == table_bytes(space)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda listed: listed.update(size=listed["size"] + 1), "listing says"),
        (lambda listed: listed["lfs"].update(sha256="0" * 64), "listing says"),
    ],
    ids=["size", "hash"],
)
def test_a_shard_that_is_not_the_listed_one_is_refused(served, checkpoint, tmp_path, change, said):
    def lie(answer):
        for listed in answer["siblings"]:
            if listed["rfilename"].endswith(".safetensors"):
                change(listed)

    served.publish(MODEL, checkpoint())
    served.faults = [Fault("/api/", listing=lie)]
    with pytest.raises(ValueError, match=said):
        EmbeddingSpace.from_pretrained(MODEL)
    assert not any((tmp_path / "cache").rglob("table.part"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_small_file_with_other_content_than_listed_is_fetched_again_and_then_refused(
    served, checkpoint, tmp_path, name
):
    content = (checkpoint() / name).read_bytes()
    served.publish(MODEL, checkpoint())
    damaged = content[:-2] + b"X" + content[-1:]
    served.faults = [Fault(f"/{name}", body=damaged)]
    with pytest.raises(ValueError, match=f"{name} of maker/model does not have the content"):
        EmbeddingSpace.from_pretrained(MODEL)
    served.faults = [Fault(f"/{name}", times=1, body=damaged)]
    space = EmbeddingSpace.from_pretrained(MODEL)
    assert (space.folder / name).read_bytes() == content


def test_a_hub_that_lists_no_sizes_and_hashes_serves_as_well(served, checkpoint):
    def forget(answer):
        answer["siblings"] = [{"rfilename": listed["rfilename"]} for listed in answer["siblings"]]

    served.publish(MODEL, checkpoint())
    served.faults = [Fault("/api/", listing=forget)]
    space = EmbeddingSpace.from_pretrained(MODEL)
    assert space.fingerprint == EmbeddingSpace.from_pretrained(checkpoint()).fingerprint


DISK_FULL = f"""
import resource, signal
from embedspace import EmbeddingSpace
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    EmbeddingSpace.from_pretrained({MODEL!r})
except OSError as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(EmbeddingSpace.from_pretrained({MODEL!r}).fingerprint)
"""


def test_a_full_disk_is_reported_and_the_download_is_resumed_once_there_is_room(served, checkpoint, tmp_path):
    folder = checkpoint()
    served.publish(MODEL, folder)
    done = process(DISK_FULL, environment(served, tmp_path))
    out, errors = done.communicate(timeout=120)
    said, fingerprint = out.strip().splitlines() or [errors, ""]
    assert "OSError" in said, errors
    assert "Make room and call again" in said
    assert "EMBEDSPACE_CACHE" in said
    space = EmbeddingSpace.from_pretrained(folder)
    assert fingerprint == space.fingerprint
    assert served.parts()[-1].body < table_bytes(space) - 80_000


@pytest.mark.filterwarnings("ignore:Not enough free disk space")
def test_a_table_larger_than_the_free_space_is_not_begun(served, checkpoint, monkeypatch):
    served.publish(MODEL, checkpoint())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=r"bytes are to come and 1 are free.*Make room"):
        EmbeddingSpace.from_pretrained(MODEL)
    assert max(a.body for a in served.parts()) < 100_000


def test_a_cache_folder_that_is_a_file_is_reported(served, checkpoint, monkeypatch, tmp_path):
    served.publish(MODEL, checkpoint())
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("EMBEDSPACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write the embedding table.*EMBEDSPACE_CACHE"):
        EmbeddingSpace.from_pretrained(MODEL)


def test_an_unknown_architecture_is_refused_before_the_table(served, checkpoint, tmp_path):
    folder = copied(checkpoint(), tmp_path / "strange")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "strange"}))
    served.publish(MODEL, folder)
    with pytest.raises(ValueError, match=r"'strange' of maker/model is not known.*table="):
        EmbeddingSpace.from_pretrained(MODEL)
    assert served.files() == {"config.json"}
    shutil.copy(checkpoint() / "config.json", folder)  # a named table of an architecture that loads
    served.publish(MODEL, folder)
    space = EmbeddingSpace.from_pretrained(MODEL, table="model.embed_tokens.weight")
    assert space.fingerprint == EmbeddingSpace.from_pretrained(folder).fingerprint
    assert space.folder != EmbeddingSpace.from_pretrained(MODEL).folder
    with pytest.raises(ValueError, match="none of"):
        EmbeddingSpace.from_pretrained(MODEL, table="no.such.tensor")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("*.safetensors*", r"no model\.safetensors.*pytorch_model\.bin.*save_pretrained"),
        ("tokenizer.json", "tokenizer"),
        ("config.json", r"has no config\.json"),
    ],
)
def test_a_repository_without_what_is_needed_says_what_there_is(served, checkpoint, tmp_path, lost, said):
    folder = copied(checkpoint(), tmp_path / "lacking")
    for path in folder.glob(lost):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    served.publish(MODEL, folder)
    with pytest.raises(ValueError, match=said):
        EmbeddingSpace.from_pretrained(MODEL)
    assert not served.files()


@pytest.mark.parametrize("damage", ["quantised", "short", "long", "header", "huge header", "index"])
def test_a_damaged_or_quantised_checkpoint_is_refused_before_its_table(served, checkpoint, tmp_path, damage):
    folder = copied(checkpoint(sharded=damage == "index"), tmp_path / "damaged")
    path = folder / "model.safetensors"
    if damage == "index":
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"]["model.embed_tokens.weight"] = "../../elsewhere.safetensors"
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        path.write_bytes(damaged(path.read_bytes(), damage))
    served.publish(MODEL, folder)
    with pytest.raises(ValueError, match=r"quantised|damaged|not a safetensors file|a file that it lacks"):
        EmbeddingSpace.from_pretrained(MODEL)
    assert max((a.body for a in served.parts()), default=0) < 100_000


def damaged(data, how):
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    table = header["model.embed_tokens.weight"]
    if how == "quantised":
        table["dtype"] = "I32"
    elif how == "long":
        table["shape"][0] += 1
    elif how == "short":
        body = body[: table["data_offsets"][0] + 1000]
    text = b"{nothing" if how == "header" else json.dumps(header).encode()
    claimed = 1 << 40 if how == "huge header" else len(text)
    return claimed.to_bytes(8, "little") + text + body


def test_a_whole_model_that_is_there_is_used_and_not_copied(served, checkpoint, tmp_path):
    served.publish(MODEL, checkpoint())
    whole = models.resolve(MODEL)
    before = len(served.parts())
    space = EmbeddingSpace.from_pretrained(MODEL)
    assert space.folder == whole
    assert len(served.parts()) == before
    assert space.fingerprint == EmbeddingSpace.from_pretrained(checkpoint()).fingerprint
    assert not any((tmp_path / "cache").rglob("*.safetensors"))
    served.stop()
    with pytest.warns(RuntimeWarning, match="downloaded before"):
        assert EmbeddingSpace.from_pretrained(MODEL).folder == whole


def test_a_partly_fetched_model_is_not_taken_for_whole(served, checkpoint):
    served.publish(MODEL, checkpoint())
    whole = models.resolve(MODEL)
    (whole / "tokenizer_config.json").unlink()  # the fingerprint would be another without it
    space = EmbeddingSpace.from_pretrained(MODEL)
    assert space.folder != whole
    assert space.fingerprint == EmbeddingSpace.from_pretrained(checkpoint()).fingerprint


def test_engines_are_given_only_the_files_that_they_need(served, checkpoint, tmp_path):
    folder = copied(checkpoint(), tmp_path / "crowded")
    needed = {path.name for path in folder.iterdir()} | {"1_Pooling/config.json", "2_Dense/model.safetensors"}
    others = (
        "pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.Q4_K_M.gguf", "tf_model.h5", "README.md",
        "flax_model.msgpack", "rust_model.ot", "model.fp16.safetensors", "consolidated.safetensors",
        "consolidated.00.pth", "original/model-00001-of-00002.safetensors", "original/params.json",
        "onnx/model.onnx", "onnx/config.json", "openvino/openvino_model.xml", "metal/model.bin",
        "checkpoint-500/model.safetensors", "fp16/model.safetensors", "training_args.bin", "image.png",
        "adapter_model.safetensors",
    )  # fmt: skip
    for name in (*others, *needed):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    served.publish(MODEL, folder)
    found = models.resolve(MODEL)
    assert {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()} == needed
    assert served.files() <= needed


def test_the_folder_of_a_table_leads_an_engine_to_the_whole_model_of_its_commit(served, checkpoint):
    from embedspace.engines import Sampling, TransformersEngine

    folder = checkpoint()
    commit = served.publish(MODEL, folder)
    space = EmbeddingSpace.from_pretrained(MODEL)
    served.publish(MODEL, checkpoint(seed=1))  # main moves on
    whole = models.resolve(space.folder)
    assert whole.name == commit
    assert EmbeddingSpace.from_pretrained(whole).fingerprint == space.fingerprint
    prompt = space.embed_chat(MESSAGES)
    (remote,) = TransformersEngine(space).generate([prompt], Sampling(max_tokens=4))
    (local,) = TransformersEngine(folder).generate([prompt], Sampling(max_tokens=4))
    assert remote.token_ids == local.token_ids


def test_an_engine_by_hub_id_fetches_every_weight_once(served, checkpoint):
    from embedspace.engines import TransformersEngine

    folder = checkpoint()
    served.publish(MODEL, folder)
    engine = TransformersEngine(MODEL)
    assert engine.space.name == MODEL
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert served.sent["store"] < weights + 20_000


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(1, 40_000), max_size=6), tagged=st.booleans())
def test_wherever_it_breaks_off_the_bytes_are_those_of_the_file(checkpoint, tmp_path, cuts, tagged):
    folder = checkpoint(sharded=False)
    local = LocalHub(large=(), tags=(lambda data: '"tag"') if tagged else (lambda data: None))
    local.publish(MODEL, folder)
    with local.running(), pytest.MonkeyPatch.context() as monkeypatch:
        connect(monkeypatch, tmp_path, local)
        monkeypatch.setattr(hub, "RETRY_DELAYS", (0.0,) * 8)
        file = RemoteFile(f"{local.url}/{MODEL}/resolve/main/model.safetensors", None, None)
        tensor = RemoteTensor.locate(file, ["no.such.tensor", "model.layers.0.mlp.up_proj.weight"])
        local.faults = [Fault("safetensors", times=1, cut_after=cut) for cut in cuts]
        target = tmp_path / "one.safetensors"
        target.unlink(missing_ok=True)
        reached = []
        tensor.download(target, reached.append)
    from safetensors.torch import load_file

    (rows,) = load_file(target).values()
    assert torch.equal(rows, load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"])
    assert reached[-1] == tensor.length
    if tagged:
        assert reached == sorted(reached)


def test_the_endpoint_can_be_named(served, checkpoint, monkeypatch):
    served.publish(MODEL, checkpoint())
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    folder = table_folder(MODEL, endpoint=served.url)
    assert json.loads((folder / MANIFEST).read_text())["hub"]["endpoint"] == served.url
