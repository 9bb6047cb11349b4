"""Worker threads: together or not at all, one call at a time, through interrupts and forks."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.helpers.scripts import run_script
from tinyrwkv.engine.pool import Pool, pool


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_all_enter_together_and_the_call_returns_when_all_have(size):
    workers, meet, done = Pool(size), threading.Barrier(size, timeout=10), []

    def work(argument):
        meet.wait()  # only if all are inside at the same time
        time.sleep(0.002 * argument)
        done.append((argument, threading.get_ident()))

    for _ in range(8):
        done.clear()
        workers.call(work, range(size))
        assert sorted(argument for argument, _ in done) == list(range(size))
        assert len({thread for _, thread in done}) == size


def test_threads_stay_between_calls():
    workers, seen = Pool(3), set()
    before = threading.active_count()
    for _ in range(50):
        workers.call(lambda _: seen.add(threading.get_ident()), range(3))
    assert threading.active_count() == before and len(seen) == 3  # not new ones each time


def test_one_pool_of_each_size_for_the_process():
    assert pool(2) is pool(2) and pool(3) is not pool(2)
    assert pool(2).size == 2


def test_calls_from_several_threads_take_turns():
    workers, inside, worst, lock = Pool(2), [0], [0], threading.Lock()

    def work(_):
        with lock:
            inside[0] += 1
            worst[0] = max(worst[0], inside[0])
        time.sleep(0.0002)
        with lock:
            inside[0] -= 1

    def caller():
        for _ in range(30):
            workers.call(work, range(2))

    callers = [threading.Thread(target=caller) for _ in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(20)
    assert not any(thread.is_alive() for thread in callers)
    assert worst[0] <= 2 and inside[0] == 0


class Alarm(Exception):
    """What a handler of signals may raise."""


@pytest.fixture(params=[KeyboardInterrupt, Alarm, SystemExit])
def raising(request):
    """Let SIGUSR1 raise an exception in the main thread, where handlers run."""
    if not hasattr(signal, "SIGUSR1"):
        pytest.skip("this system has no SIGUSR1")

    def handler(*_):
        raise request.param

    before = signal.signal(signal.SIGUSR1, handler)
    yield request.param
    signal.signal(signal.SIGUSR1, before)


def test_an_exception_of_a_handler_never_lets_two_calls_meet(raising):
    workers, events = Pool(3), []

    def work(argument):
        number, i, signals = argument
        events.append(number)
        if signals and i == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.02)
        events.append(number)

    for number in range(8):
        arguments = [(number, i, number % 2 == 0) for i in range(3)]
        if number % 2 == 0:
            with pytest.raises(raising):
                workers.call(work, arguments)
                time.sleep(0.1)  # where the signal came late
        else:
            workers.call(work, arguments)
    assert events == sorted(events) and len(events) == 8 * 3 * 2


INTERRUPTS = """
    import random, signal, time
    import tinyrwkv
    path, backend, kind = sys.argv[1:]
    class Alarm(Exception): pass
    Raised = KeyboardInterrupt if kind == "interrupt" else Alarm
    def handler(*_):
        raise Raised
    signal.signal(signal.SIGALRM, handler)
    model = tinyrwkv.load(path, backend=backend, threads=2)
    tokens = list(range(1, 33))
    expected = model.forward(tokens)[0].tobytes()
    random.seed(1)
    end, hits = time.monotonic() + 3, 0
    while hits < 80 and time.monotonic() < end:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-3))
            try:
                for _ in range(8):
                    model.forward(tokens)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Raised:
            hits += 1
        found = model.forward(tokens)[0].tobytes()
        assert found == expected, f"another answer after {hits} interrupts"
    assert hits
    os.write(1, b"done")
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
@pytest.mark.parametrize("kind", ["interrupt", "exception of a handler"])
def test_interrupts_at_any_moment_leave_a_pool_that_works(tiny, compiled, kind):
    assert run_script(INTERRUPTS, tiny("v7", "int8"), compiled, kind) == "done"


TORRENT = """
    import signal, time
    import tinyrwkv
    path, backend = sys.argv[1:]
    class Alarm(Exception): pass
    armed = False
    def handler(_, frame):
        if armed and frame.f_globals is not globals():  # only in the library
            raise Alarm
    signal.signal(signal.SIGALRM, handler)
    model = tinyrwkv.load(path, backend=backend, threads=2)
    tokens = list(range(1, 33))
    expected = model.forward(tokens)[0].tobytes()
    end, hits = time.monotonic() + 3, 0
    while hits < 40 and time.monotonic() < end:
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, 2e-4, 3e-5)
                armed = True
                for _ in range(5):
                    model.forward(tokens)
            finally:
                armed = False
        except Alarm:
            hits += 1
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert model.forward(tokens)[0].tobytes() == expected, hits
    assert hits
    os.write(1, b"done")
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
def test_one_signal_after_the_other_leaves_a_pool_that_works(tiny, compiled):
    assert run_script(TORRENT, tiny("v7", "int8"), compiled) == "done"


NO_THREADS = """
    import _thread, signal
    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")
    start, _thread.start_new_thread = _thread.start_new_thread, refuse
    import tinyrwkv
    path, backend = sys.argv[1:]
    signal.alarm(10)
    try:
        tinyrwkv.load(path, backend=backend, threads=2).forward([1])
    except tinyrwkv.TinyRWKVError as error:
        assert "thread" in str(error)
    else:
        raise SystemExit("no error")
    _thread.start_new_thread = start
    model = tinyrwkv.load(path, backend=backend, threads=2)
    assert model.forward([1])[0].shape == (300,)
    print("done", end="")
"""


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system has no alarm")
def test_a_limit_on_threads_is_an_error_of_the_library(tiny, compiled):
    assert run_script(NO_THREADS, tiny("v7", "int8"), compiled) == "done"


FORK = """
    import signal, threading, time
    import tinyrwkv
    path, backend = sys.argv[1:]
    model = tinyrwkv.load(path, backend=backend, threads=2)
    tokens = list(range(1, 40))
    expected = model.forward(tokens)[0].tobytes()
    stop = threading.Event()
    def busy():
        while not stop.is_set():
            model.forward(tokens)
    thread = threading.Thread(target=busy)
    thread.start()
    for _ in range(8):
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            ok = all(model.forward(tokens)[0].tobytes() == expected for _ in range(3))
            os._exit(0 if ok else 9)
        assert os.waitpid(child, 0)[1] == 0
        assert model.forward(tokens)[0].tobytes() == expected
    stop.set()
    thread.join()
    print("done", end="")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_children_of_a_fork_have_threads_of_their_own(tiny, compiled):
    assert run_script(FORK, tiny("v7", "int8"), compiled) == "done"


FORK_WHILE_MAKING = """
    import signal, threading
    from tinyrwkv.engine import pool as module
    class Slow(module.Pool):
        def __init__(self, size):
            entered.set()
            leave.wait(20)
            super().__init__(size)
    entered, leave = threading.Event(), threading.Event()
    original, module.Pool = module.Pool, Slow
    thread = threading.Thread(target=module.pool, args=(2,))
    thread.start()
    entered.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(5)
        module.Pool = original
        module.pool(2).call(lambda _: None, range(2))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    leave.set()
    thread.join()
    assert status == 0, "the child hangs"
    print("done", end="")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_another_thread_makes_the_pool():
    assert run_script(FORK_WHILE_MAKING) == "done"
