"""A server with vLLM's addresses that computes nothing and waits a fixed time, in a process of its own.

Run by path, ``python stand_in.py SECONDS MODEL``, it needs the standard library alone. It serves all connections in one
loop, so that many callers at once do not slow it down.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class StandIn:
    """The process.

    Args:
        seconds: that an answer takes.
        model: name that the server reports.
    """

    def __init__(self, seconds: float, model: str) -> None:
        self._words = [str(seconds), model]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> StandIn:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-P", __file__, *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


async def _serve(seconds: float, model: str) -> None:
    models = {"data": [{"id": model, "max_model_len": 8192}]}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                content: object = models
                if head.startswith(b"POST"):
                    await asyncio.sleep(seconds)
                    asked = json.loads(body)
                    prompts = asked.get("prompt_embeds") or asked.get("prompt") or ""
                    count = len(prompts) if isinstance(prompts, list) else 1
                    choices = [{"index": n, "text": "fine", "finish_reason": "stop"} for n in range(count)]
                    content = {"choices": choices}
                said = json.dumps(content).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ")
                writer.write(b"%d\r\n\r\n" % len(said) + said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"http://{host}:{port}", flush=True)
    # Ends with the program that started it.
    await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]), sys.argv[2]))
