"""Start an engine in a process of its own: the other end of engine_process.py."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
from typing import Any

ROOT = str(pathlib.Path(__file__).resolve().parent.parent)


class Engine:
    """A process that runs an engine; `ask` waits for its answer.

    Parameters
    ----------
    name : str
        As engine_process.py knows it.
    python, model : str
        The interpreter that has it, and the file that it reads.
    threads : int
    log : str
        File for what it prints.
    form : str, optional
        Of its model, where the engine runs in several.
    """

    def __init__(
        self, name: str, python: str, model: str, threads: int, log: str, form: str = ""
    ) -> None:
        self.name, self.model, self.threads, self.log = (
            f"{name} {form}".strip(),
            model,
            threads,
            log,
        )
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
        }
        with open(log, "w") as errors:
            command = [
                python,
                os.path.join(ROOT, "benchmarks", "engine_process.py"),
                name,
                model,
                str(threads),
            ]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment
            )
        self.latencies: list[float] = []
        self.prefills: list[float] = []
        started = self._answer()
        self.about, self.load_s = started["about"] + (form and f", {form}"), started["load_s"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            said = pathlib.Path(self.log).read_text().strip().splitlines() or ["nothing"]
            raise RuntimeError(
                f"it ended with {self.process.returncode}, and the last that it said is: {said[-1]}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, do: str, **told: Any) -> dict[str, Any]:
        """Have something done; return the answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: that there is no answer tells
            self.process.stdin.write(json.dumps({"do": do, **told}) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
