"""Worker threads: together or not at all, one call at a time, through interrupts and forks."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tinyrwkv.pool import Pool, pool

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run_script(code: str, *args: str, seconds: float = 30) -> str:
    """Run a script in a process of its own, which a hang ends with a traceback; return what it prints."""
    start = "import faulthandler, os, sys, warnings\n"
    start += f"faulthandler.dump_traceback_later({seconds}, exit=True)\nwarnings.simplefilter('ignore')\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code), *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_all_enter_together_and_the_call_returns_when_all_have(size):
    workers, meet, done = Pool(size), threading.Barrier(size, timeout=10), []

    def work(argument):
        meet.wait()  # only if all are inside at the same time
        time.sleep(0.002 * argument)
        done.append((argument, threading.get_ident()))

    for _ in range(20):
        done.clear()
        workers.call(work, range(size))
        assert sorted(argument for argument, _ in done) == list(range(size))
        assert len({thread for _, thread in done}) == size
        assert dict(done)[0] == threading.get_ident()  # the caller works too


def test_threads_stay_between_calls():
    workers, seen = Pool(3), set()
    before = threading.active_count()
    for _ in range(50):
        workers.call(lambda _: seen.add(threading.get_ident()), range(3))
    assert threading.active_count() == before and len(seen) == 3


def test_one_pool_of_each_size_for_the_process():
    assert pool(2) is pool(2) and pool(3) is not pool(2)
    assert pool(2).size == 2 and pool(2).process == os.getpid()


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


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Alarm, SystemExit])
def test_an_exception_in_the_caller_waits_for_the_others(kind):
    """A signal's handler runs in the main thread when its part returns, whatever it raises."""
    workers, running = Pool(3), []

    def work(argument):
        running.append(argument)
        if argument == 0:
            raise kind
        time.sleep(0.05)
        running.remove(argument)

    for _ in range(3):
        running.clear()
        with pytest.raises(kind):
            workers.call(work, range(3))
        assert running == [0]
        running.clear()
        workers.call(lambda argument: running.append(argument), range(3))
        assert sorted(running) == [0, 1, 2]


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
    end, count, hits = time.monotonic() + 3, 0, 0
    while time.monotonic() < end:
        count += 1
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-3))
            try:
                for _ in range(20):
                    model.forward(tokens)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Raised:
            hits += 1
        assert model.forward(tokens)[0].tobytes() == expected, f"another answer after {hits} interrupts"
    assert hits > 20, hits
    os.write(1, b"done")
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="this system has no interval timer")
@pytest.mark.parametrize("kind", ["interrupt", "exception of a handler"])
def test_interrupts_at_any_moment_leave_a_pool_that_works(tiny, compiled, kind):
    assert run_script(INTERRUPTS, tiny("v7", "int8"), compiled, kind) == "done"


FORK = """
    import threading, time
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
    for _ in range(20):
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(10, exit=True)
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
    import threading
    from tinyrwkv import pool as module
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
        faulthandler.dump_traceback_later(5, exit=True)
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
def test_a_fork_while_another_thread_makes_the_pool(tiny):
    assert run_script(FORK_WHILE_MAKING) == "done"
