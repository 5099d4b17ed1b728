"""The command listens to this machine alone, and says clearly what it refuses."""

import socket
import subprocess
import sys
from argparse import ArgumentParser

import pytest

from embedspace.cli import main
from embedspace.playground.engines import EngineChoice
from embedspace.playground.materials import Materials
from embedspace.playground.server import add_arguments, listener
from tests.checkpoints import make_tiny_checkpoint


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com"])
def test_an_address_that_others_reach_is_refused(host, capsys):
    assert main(["playground", "--host", host]) == 2
    assert f"--host {host}: the playground listens at 127.0.0.1" in capsys.readouterr().err


def test_a_port_in_use_is_named():
    with listener("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 cannot be used"):
            listener("127.0.0.1", port)


def test_a_free_port_is_bound_on_this_machine_alone():
    with listener("127.0.0.1", 0) as bound:
        assert bound.family == socket.AF_INET
        assert bound.getsockname()[0] == "127.0.0.1"
    with pytest.raises(ValueError, match="must be in"):
        listener("127.0.0.1", 70000)


@pytest.mark.parametrize(
    ("name", "url", "said"),
    [
        ("vllm", None, "needs the server's address"),
        ("transformers", "http://x", "needs --engine vllm"),
        ("vllm", "localhost:8000", "must be an address such as http://"),
    ],
)
def test_an_engine_and_its_address_belong_together(name, url, said):
    with pytest.raises(ValueError, match=said):
        EngineChoice(name, url)


def test_a_model_without_a_chat_template_is_refused(tmp_path):
    make_tiny_checkpoint(tmp_path / "model", chat_template=None)
    with pytest.raises(ValueError, match="no chat template"):
        Materials.load(str(tmp_path / "model"))


def test_the_command_line_loads_no_torch_for_its_arguments():
    code = "import sys, embedspace.cli; sys.exit('torch' in sys.modules or 'starlette' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_styles_and_soft_prompts_may_be_given_several_times():
    parser = ArgumentParser()
    add_arguments(parser)
    given = parser.parse_args(["--style", "a", "--style", "b", "--soft", "c"])
    assert ([str(path) for path in given.style], [str(path) for path in given.soft]) == (["a", "b"], ["c"])
