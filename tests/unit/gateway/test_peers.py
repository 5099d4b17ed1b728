"""Claims about the addresses that connect, and their shares of the gateway's time."""

from __future__ import annotations

import asyncio
import time

from embedspace.gateway.peers import Peer, Peers


class Connection:
    def __init__(self, peer: Peer, idle: bool = True) -> None:
        self.idle = idle
        self.dropped = False
        peer.connections[self] = None

    def drop(self) -> None:
        self.dropped = True


def admitted(peers: Peers, address: str) -> Peer:
    peer = peers.admit(address)
    assert peer is not None
    return peer


def test_idle_connections_make_room_for_new_ones() -> None:
    async def run() -> None:
        peers = Peers(8)
        first = [Connection(admitted(peers, "10.0.0.1")) for _ in range(6)]
        assert not any(each.dropped for each in first)
        Connection(admitted(peers, "10.0.0.1"))  # more than three quarters
        assert [each.dropped for each in first] == [True] + [False] * 5
        others = [Connection(admitted(peers, f"10.0.1.{n}")) for n in range(4)]
        assert sum(each.dropped for each in first) == 3
        assert not any(each.dropped for each in others)
        peers.close()

    asyncio.run(run())


def test_without_an_idle_connection_new_ones_of_that_address_find_no_room() -> None:
    async def run() -> None:
        peers = Peers(8)
        for _ in range(6):
            Connection(admitted(peers, "10.0.0.1"), idle=False)
        assert peers.admit("10.0.0.1") is None
        Connection(admitted(peers, "10.0.0.2"))
        peers.close()

    asyncio.run(run())


def test_an_address_that_sends_much_waits_and_another_one_does_not() -> None:
    async def run() -> None:
        peers = Peers(8)
        busy, calm = admitted(peers, "10.0.0.1"), admitted(peers, "10.0.0.2")
        done: list[float] = []
        began = time.monotonic()
        for _ in range(40):
            busy.when_it_has_time(lambda: (busy.charge(0.01), done.append(time.monotonic())))  # type: ignore[arg-type, return-value]
        called = []
        calm.when_it_has_time(lambda: called.append(True))
        assert called == [True]
        assert len(done) < 5
        while len(done) < 40:
            await asyncio.sleep(0.01)
        assert done[-1] - began > 0.4  # not all of the time, of which it used as much
        peers.close()

    asyncio.run(run())


def test_an_address_that_is_alone_does_not_wait_long() -> None:
    async def run() -> None:
        peers = Peers(8)
        only = admitted(peers, "10.0.0.1")
        Connection(only)
        await asyncio.sleep(0.2)
        assert only.share == 1.0
        peers.close()

    asyncio.run(run())
