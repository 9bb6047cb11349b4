"""A forked child never waits for a thread that only its parent has."""

from __future__ import annotations

import os

import pytest

from tests.helpers.scripts import run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

START = """
    import os, signal, threading, traceback
    import numpy as np
    import tinyrwkv
    from tinyrwkv import Regex
    path, backend = sys.argv[1:]
    model = tinyrwkv.load(path, backend=backend)
    parent, inside, go_on = os.getpid(), threading.Event(), threading.Event()

    def paused(function):
        '''Let a thread of the parent wait in a function, until the child has ended.'''
        def call(*args, **kwargs):
            if os.getpid() == parent and threading.current_thread() is not threading.main_thread():
                inside.set()
                go_on.wait(140)
            return function(*args, **kwargs)
        return call

    def check(in_thread, in_child):
        thread = threading.Thread(target=in_thread)
        thread.start()
        assert inside.wait(140)
        child = os.fork()
        if not child:
            signal.alarm(100)  # what hangs is killed
            try:
                in_child()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        go_on.set()
        thread.join(140)
        assert status == 0 and not thread.is_alive(), f"the child ended with status {status}"
"""

CASES = {
    "the first mask of a constraint": """
        from tinyrwkv.constraints.filter import Filter
        Filter.tokens = paused(Filter.tokens)
        pattern = Regex("(ab|c)*")
        def ask():
            walk = pattern.start(model)
            logits = np.zeros(model.config["vocab_size"], np.float32)
            walk.mask(logits)
            return np.isfinite(logits).sum()
        expected = Regex("(ab|c)*").start(model)
        def in_child():
            assert ask() == 6  # a, ab, abc, c, ca and the end
            assert pattern.prepare(model) > 1
        check(ask, in_child)
    """,
    "a state of an automaton half made": """
        from tinyrwkv.constraints.automaton import Automaton
        Automaton.number_of = paused(Automaton.number_of)
        pattern = Regex("(ab|c)*")
        def in_child():
            walk = pattern.start(model)
            assert walk.read(b"abcab") and not walk.read(b"b")
        check(lambda: pattern.start(model).read(b"ab"), in_child)
    """,
    "the tokenizer of a model": """
        from tinyrwkv import core
        core.Tokenizer.__init__ = paused(core.Tokenizer.__init__)
        def in_child():
            assert model.tokenizer.decode(model.tokenizer.encode("abc")) == "abc"
            other = tinyrwkv.load(path, backend=backend)
            assert other.tokenizer.encode("abc") == model.tokenizer.encode("abc")
        check(lambda: model.tokenizer, in_child)
    """,
    "the turn of a limit": """
        model = tinyrwkv.load(path, backend=backend, resident_limit=2 * model.plan()["file_bytes"])
        model.backend.run = paused(model.backend.run)
        check(lambda: model.forward([1, 2]), lambda: model.forward([1, 2]))
    """,
    "a piece of a generation": """
        model.backend.run = paused(model.backend.run)
        generation = model.generate([1, 2], max_tokens=3)
        def in_child():
            generation.cancel()
            try:
                next(generation)
            except tinyrwkv.TinyRWKVError:
                pass
            assert len(model.generate([1, 2], max_tokens=3).text()) >= 0
        check(lambda: list(generation), in_child)
    """,
}


@pytest.mark.parametrize("case", CASES)
def test_a_child_forked_in_the_middle_of(case, tiny, backend):
    if "limit" in case and not os.path.exists("/proc/self/smaps"):
        pytest.skip("this system does not tell what is resident")
    run_script(START + CASES[case].replace("\n    ", "\n"), tiny(), backend, seconds=150)
