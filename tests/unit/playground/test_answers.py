"""Answers are streamed, bounded in number, and end when nobody reads them."""

import asyncio
import threading
import time

import pytest

from embedspace.engines import Sampling
from embedspace.errors import EngineUnreachableError
from embedspace.playground.answers import AnswerDesk, BusyError
from embedspace.playground.engines import EngineChoice


class Typist:
    """An engine that writes one word every few milliseconds, for as long as it is read."""

    def __init__(self, words=1_000_000, error=None):
        self.words, self.error = words, error
        self.choice, self.is_open = EngineChoice(), True
        self.writing, self.most, self.ended = 0, 0, threading.Event()
        self._lock = threading.Lock()

    def stream(self, prompt, sampling):
        if self.error:
            raise self.error
        with self._lock:
            self.writing += 1
            self.most = max(self.most, self.writing)
        try:
            for number in range(self.words):
                time.sleep(0.002)
                yield f"{number} "
        finally:
            with self._lock:
                self.writing -= 1
            self.ended.set()


PROMPTS = {"text": [1], "moved": [2], "control": [3]}


async def read(desk, prompts=PROMPTS, most=10_000):
    desk.admit()
    events = []
    writing = desk.write(prompts, Sampling())
    async for event in writing:
        events.append(event)
        if len(events) == most:
            break
    await writing.aclose()
    desk.release()
    return events


@pytest.mark.parametrize("streams", [1, 3])
def test_every_answer_arrives_whole_and_no_more_are_written_at_once_than_allowed(streams):
    typist = Typist(words=5)
    events = asyncio.run(read(AnswerDesk(typist, tabs=1, streams=streams)))
    for card in PROMPTS:
        own = [event for event in events if event.card == card]
        assert "".join(event.text for event in own) == "0 1 2 3 4 "
        assert own[-1].kind == "done"
    assert typist.most <= streams


def test_an_answer_that_nobody_reads_any_more_ends():
    async def main():
        typist = Typist()
        await read(AnswerDesk(typist, tabs=1, streams=1), most=3)
        assert await asyncio.to_thread(typist.ended.wait, 5)
        await asyncio.sleep(0.1)
        assert typist.writing == 0  # neither goes the second answer on

    asyncio.run(main())


def test_a_tab_too_many_is_refused_until_another_has_ended():
    async def main():
        desk = AnswerDesk(Typist(words=1), tabs=1, streams=1)
        desk.admit()
        with pytest.raises(BusyError, match="1 tabs are waiting"):
            desk.admit()
        desk.release()
        await read(desk)

    asyncio.run(main())


def test_two_tabs_at_once_both_get_their_answers():
    async def main():
        desk = AnswerDesk(Typist(words=4), tabs=2, streams=1)
        both = await asyncio.gather(read(desk), read(desk))
        for events in both:
            assert [event.kind for event in events].count("done") == len(PROMPTS)

    asyncio.run(main())


def test_an_error_of_one_engine_is_an_event_and_frees_its_place():
    async def main():
        typist = Typist(error=EngineUnreachableError("nothing answers at http://x"))
        desk = AnswerDesk(typist, tabs=1, streams=1)
        for _ in range(2):
            events = await read(desk)
            assert [(event.kind, event.text) for event in events] == [
                ("error", "nothing answers at http://x")
            ] * 3

    asyncio.run(main())
