"""Claims about the background loop that its callers' tests do not make."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, sys
from embedspace._util.background_loop import BackgroundLoop

loop = BackgroundLoop("test")
loop.run(asyncio.sleep(0))
if sys.argv[1] == "fork" and (child := os.fork()):
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if sys.argv[1] != "exit":
    del loop
"""


@pytest.mark.parametrize("kind", ["exit", "drop", "fork"])
def test_a_program_that_never_closes_its_loop_ends(kind: str) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, kind], check=True, timeout=120)
