"""Forked processes: what was made before a fork works after it or says at once that it cannot, and never hangs."""

import multiprocessing
import os
import subprocess
import sys
import threading
import types

import pytest
import torch

from embedspace import EmbeddingCache, EmbeddingSpace
from embedspace._util.background_loop import BackgroundLoop
from embedspace._util.forks import lock_across_forks
from embedspace.engines import Sampling, TransformersEngine, VLLMClient, VLLMOfflineEngine
from embedspace.errors import EngineError
from tests.checkpoints import make_tiny_checkpoint
from tests.fake_vllm import MAX_WAIT, MODEL, FakeVLLM, Reply, choices, events, marks, reply

FORK = multiprocessing.get_context("fork")
SHORT = Sampling(max_tokens=4)

THREADED = """
import multiprocessing, sys
import torch
torch.set_num_threads(2)
from embedspace import EmbeddingSpace, interpolate
from embedspace.engines import Sampling, TransformersEngine

space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
engine = TransformersEngine(sys.argv[1])
chats = [[{"role": "user", "content": f"Name {number} rivers."}] for number in range(40)]

def work():
    prompts = list(space.embed_many(chats))
    words = [space.read(prompts[0]), space.read(interpolate(*prompts[:2], t=0.5))]
    rows = engine.space.embed("rivers and lakes " * 20)
    return words + [str(each.token_ids) for each in engine.generate([rows], Sampling(max_tokens=3))]

def child(expected):
    assert torch.get_num_threads() == 1
    assert work() == expected

expected = work()
process = multiprocessing.get_context("fork").Process(target=child, args=[expected])
process.start()
process.join(120)
if process.exitcode is None:
    process.kill()
    sys.exit("the child hangs")
assert torch.get_num_threads() == 2
sys.exit(process.exitcode)
"""


def in_a_fork(work):
    """What a function returns in a forked process."""
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: send.send(work()))
    process.start()
    process.join(MAX_WAIT)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail("the forked process hangs")
    assert process.exitcode == 0
    return receive.recv()


def error_of(work):
    """What a call that must fail says."""
    try:
        work()
    except (EngineError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it did not fail")


@pytest.fixture
def fake():
    with FakeVLLM() as server:
        yield server


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return TransformersEngine(make_tiny_checkpoint(tmp_path_factory.mktemp("llama"), layers=1))


def answers(engine):
    return [str(answer) for answer in engine.generate([[5, 6], [7]], SHORT)]


def test_a_client_starts_anew_in_a_forked_process_and_goes_on_in_the_parent(fake):
    with VLLMClient(fake.url) as client:
        before = answers(client)
        assert in_a_fork(lambda: answers(client)) == before
        assert in_a_fork(lambda: in_a_fork(lambda: answers(client))) == before
        assert answers(client) == before


def test_a_client_that_was_not_used_before_the_fork_works_after_it(fake):
    with VLLMClient(fake.url) as client:
        fake.respond = lambda _: events({"choices": [{"text": "bread", "finish_reason": "stop"}]})
        assert in_a_fork(lambda: (client.info.model, list(client.stream([5], SHORT)))) == (MODEL, ["bread"])


def test_what_was_asked_for_before_the_fork_is_an_error_there_and_an_answer_here(fake):
    answered = threading.Event()

    def respond(request):
        later = None if marks(request) == [5] else answered
        return Reply(200, reply({"choices": choices(request)}).body, after=later)

    fake.respond = respond
    with VLLMClient(fake.url, prompts_per_request=1) as client:
        waiting = client.generate([[5], [6], [7]], SHORT)
        first = next(waiting).text
        said = in_a_fork(lambda: error_of(lambda: next(waiting)))
        assert "RuntimeError: embedspace-vllm-client runs in process" in said
        answered.set()
        assert [first, *(answer.text for answer in waiting)] == ["5.0", "6.0", "7.0"]


def test_closing_a_client_in_a_forked_process_leaves_the_parents_open(fake):
    with VLLMClient(fake.url) as client:
        before = answers(client)

        def close():
            client.close()
            client.close()
            return error_of(lambda: answers(client))

        assert "is closed; make a new VLLMClient" in in_a_fork(close)
        assert answers(client) == before
    assert "is closed" in in_a_fork(lambda: error_of(lambda: answers(client)))


def test_a_loop_of_the_parent_raises_at_once():
    loop = BackgroundLoop("a-loop")

    async def nothing():
        return 1

    async def items():
        yield 1

    def errors():
        works = (
            lambda: loop.run(nothing()),
            lambda: list(loop.iterate(items())),
            lambda: list(loop.map_in_order(lambda _: nothing(), [1], 2)),
        )
        loop.close()
        return [error_of(work) for work in works]

    assert all("a-loop runs in process" in said for said in in_a_fork(errors))
    assert loop.run(nothing()) == 1
    loop.close()


def test_an_engine_on_the_cpu_answers_in_a_forked_process(engine):
    assert in_a_fork(lambda: answers(engine)) == answers(engine)


def test_an_engine_on_a_gpu_says_at_once_that_it_is_the_parents(engine, monkeypatch):
    monkeypatch.setattr(engine, "device", torch.device("cuda"))
    for work in (lambda: answers(engine), lambda: engine.score([5], " a")):
        assert "computes on cuda in process" in in_a_fork(lambda work=work: error_of(work))


def test_a_closed_engine_says_so(tmp_path):
    engine = TransformersEngine(make_tiny_checkpoint(tmp_path, layers=1))
    engine.close()
    with pytest.raises(EngineError, match="is closed; make a new TransformersEngine"):
        answers(engine)


def test_threads_that_do_not_survive_a_fork_are_not_waited_for(tmp_path):
    folder = make_tiny_checkpoint(tmp_path, hidden_size=512, layers=1)
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    ended = subprocess.run(
        [sys.executable, "-c", THREADED, str(folder)],
        env=environment,
        timeout=5 * MAX_WAIT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_an_offline_engine_of_the_parent_raises_at_once_and_is_not_shut_down(tmp_path, monkeypatch):
    stopped = []

    class LLM:
        def __init__(self, *_, **__):
            core = types.SimpleNamespace(shutdown=lambda: stopped.append(os.getpid()))
            config = types.SimpleNamespace(get_hidden_size=lambda: 4, max_model_len=32)
            self.llm_engine = types.SimpleNamespace(engine_core=core, model_config=config)

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=LLM))
    monkeypatch.setattr("embedspace.engines.vllm.offline.require_vllm", lambda _: None)
    monkeypatch.setattr("embedspace.engines.vllm.offline.with_defaults", lambda environment: {})
    engine = VLLMOfflineEngine(make_tiny_checkpoint(tmp_path, layers=1))

    def use():
        said = error_of(lambda: answers(engine))
        engine.close()
        return said, stopped

    said, stopped_there = in_a_fork(use)
    assert "belongs to process" in said
    assert stopped_there == []
    engine.close()
    assert stopped == [os.getpid()]


def test_a_cache_and_a_space_are_used_on_both_sides_of_a_fork(engine, tmp_path):
    space = engine.space
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        (before,) = space.embed_many(["rows"], cache=cache)
        there = in_a_fork(lambda: next(space.embed_many(["rows"], cache=cache)).vectors.tolist())
        assert there == before.vectors.tolist()
        assert next(space.embed_many(["rows"], cache=cache)).vectors.tolist() == there


def test_a_fork_while_another_thread_holds_a_lock_leaves_no_lock_held():
    lock, stop = lock_across_forks(), threading.Event()

    def hold():
        while not stop.is_set():
            with lock:
                sum(range(1000))

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        for _ in range(5):
            assert in_a_fork(lambda: lock.acquire(timeout=MAX_WAIT))
    finally:
        stop.set()
        holder.join()


def test_a_space_made_in_a_forked_process_is_found_there(engine):
    folder = engine.space.folder
    assert in_a_fork(lambda: EmbeddingSpace.from_pretrained(folder).fingerprint) == engine.space.fingerprint


def test_a_forked_process_may_end_without_closing_anything(fake):
    with VLLMClient(fake.url) as client:
        before = answers(client)
        process = os.fork()
        if process == 0:
            code = 0 if answers(client) == before else 1
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
