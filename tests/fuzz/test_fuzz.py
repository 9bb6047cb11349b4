"""Every fuzzer for a moment, every case that once failed; and what the fuzzers themselves do."""

from __future__ import annotations

import os
import sys

import pytest

from tests.fuzz import bad
from tests.fuzz.__main__ import different, summary
from tests.fuzz.cases import CASES
from tests.fuzz.fuzzer import Fuzzer
from tests.fuzz.guided import FedRandom, main
from tests.fuzz.targets import FUZZERS
from tests.fuzz.worker import Failure, Outcome, input_of, once, supervise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="workers are limited as on Linux"),
]

SHORT, SEED = 100, 1
"""Executions of each fuzzer here, always the same ones.

.ci/run lets each run for 20 seconds, and .ci/nightly does more, others every day.
"""


@pytest.mark.parametrize("name", FUZZERS)
def test_every_input_is_read_or_refused(name: str) -> None:
    outcome = supervise(name, SEED, 0, SHORT)
    assert not outcome.failures
    assert outcome.executions == outcome.read + outcome.refused == SHORT
    assert outcome.read
    assert outcome.refused


def test_a_fuzzer_ends_after_its_time() -> None:
    outcome = supervise("profile", SEED, 0, 10**9, seconds=0.2)
    assert 0 < outcome.executions < 10**9
    assert outcome.executions == outcome.read + outcome.refused
    assert supervise("profile", SEED, 0, 5, seconds=60).executions == 5


@pytest.mark.parametrize("case", CASES)
def test_what_once_failed_is_refused(case: str, tmp_path) -> None:
    name, make = CASES[case]
    assert not once(FUZZERS[name], make(), str(tmp_path))


def test_the_seed_and_the_number_give_an_input_again() -> None:
    for name, fuzzer in FUZZERS.items():
        inputs = [input_of(name, fuzzer, 1, index) for index in (0, 1, 0)]
        assert inputs[0] == inputs[2]
        assert inputs[0] != inputs[1]


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("dies", "death", "Segmentation fault"),
        ("hangs", "hang", "bad.py"),
        ("raises", "foreign exception", "KeyError: 'i8'"),
        ("eats", "foreign exception", "MemoryError"),
    ],
)
def test_what_ends_a_worker_is_reported_with_its_input(name: str, kind: str, text: str) -> None:
    def inputs(seed: int) -> list[bytes]:
        return [input_of(name, bad.FUZZERS[name], seed, index) for index in range(3)]

    seed = next(seed for seed in range(1000) if inputs(seed) == [b"good", b"bad", b"good"])
    outcome = supervise(name, seed, 0, 3)
    (failure,) = outcome.failures
    assert (failure.index, failure.kind) == (1, kind)
    assert text in failure.text
    assert (outcome.executions, outcome.read, outcome.refused) == (3, 2, 0)


def test_a_summary_counts_and_a_group_stands_for_its_failures() -> None:
    failures = [
        Failure(3, "hang", ""),
        Failure(5, "death", "status -11\nSegmentation fault"),
        Failure(9, "death", "status -11\nSegmentation fault"),
    ]
    line = summary("pth", Outcome(1000, 300, 697, failures, 2.5))
    assert "1,000 executions, 300 read, 697 refused" in line
    assert "2 deaths, 1 hangs, 0 foreign exceptions" in line
    assert different(failures) == failures[:2]


def test_an_input_is_read_or_refused_and_nothing_else(tmp_path) -> None:
    def fail(data: bytes, folder: str) -> None:
        raise KeyError(folder)

    with pytest.raises(KeyError):
        once(Fuzzer(lambda rng: b"", fail), b"", str(tmp_path))


def test_given_bytes_decide_what_a_fuzzer_writes() -> None:
    numbers = FedRandom(bytes(range(1, 9)))
    assert [numbers.getrandbits(k) for k in (8, 12, 16)] == [1, 0x302, 0x504]
    assert 0 <= numbers.random() < 1  # the bytes have ended
    make = FUZZERS["gguf"].make
    one, same, other = (make(FedRandom(data * 50)) for data in (b"abc", b"abc", b"abx"))
    assert one == same != other


@pytest.mark.parametrize(("name", "ends_well"), [("safetensors", True), ("raises", False)])
def test_atheris_drives_a_fuzzer(name, ends_well, tmp_path, monkeypatch) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.chdir(tmp_path)  # where atheris writes what failed
    assert (main([name, "--seconds", "2"]) == 0) == ends_well
    assert bool([*tmp_path.iterdir()]) != ends_well
