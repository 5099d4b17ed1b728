"""A vLLM server and its client as one engine: started, used and stopped together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from embedspace.engines.base import Completion, Prompt, Sampling
from embedspace.engines.vllm.client import VLLMClient
from embedspace.engines.vllm.server import VLLMServer


class ServedEngine:
    """Generates on a vLLM server of its own, which :meth:`close` stops.

    Args:
        server: is started here.
        client: makes the client, given the server's address and the model's name.

    Raises:
        ServerStartError: the server did not come up.
    """

    def __init__(self, server: VLLMServer, client: Callable[[str, str], VLLMClient] = VLLMClient) -> None:
        self._server = server.start()
        try:
            self._client = client(server.url, server.model)
        except BaseException:
            server.stop()
            raise

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Completions in prompt order, as :meth:`VLLMClient.generate <embedspace.engines.VLLMClient.generate>`."""
        return self._client.generate(prompts, sampling)

    def describe(self) -> dict[str, str]:
        """What the client says, that the server is the engine's own, and the dtype in which it computes."""
        return {**self._client.describe(), "engine": "vllm_server", "server_dtype": self._server.dtype}

    @property
    def retries(self) -> Mapping[str, int]:
        """What the client had to send again."""
        return self._client.retries

    def close(self) -> None:
        """Close the connections and stop the server; harmless when repeated."""
        try:
            self._client.close()
        finally:
            self._server.stop()
