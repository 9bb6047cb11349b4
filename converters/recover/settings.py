"""What a user may choose about a training, and what was found to work."""

from __future__ import annotations

from typing import NamedTuple

from tinyrwkv.errors import ArgumentError

from .body import VALUES


class Settings(NamedTuple):
    """The settings of a training; the same ones, text and checkpoint can be continued.

    Attributes
    ----------
    minutes : float
        How long to train, without the time to read, to sample and to judge.
    steps : int or None
        End after so many steps of the optimiser, if that is sooner.
    batch : int or None
        Windows of 512 tokens for each step. Default: 16 on a GPU, 2 on a CPU.
    samples : int or None
        Windows that the teacher writes. Default: 8,192 on a GPU, 64 on a CPU.
    values : str
        See `converters.recover.body.body`.
    keep : float
        Share of the neurons that count for a token, chosen as a sparse channel mix does.
    rounding : float
        Learning rate of the weights, in steps of their scale.
    scales : float
        Learning rate of the logarithms of the scales.
    vectors : float
        Learning rate of norms, mixes and biases.
    hidden : float
        How much the residual streams count, beside the predictions.
    rare : float
        How much the errors of all log probabilities count, those of improbable tokens too.
    seed : int
    """

    minutes: float = 10.0
    steps: int | None = None
    batch: int | None = None
    samples: int | None = None
    values: str = "neurons"
    keep: float = 1.0
    rounding: float = 1e-3
    scales: float = 2e-4
    vectors: float = 1e-4
    hidden: float = 0.0
    rare: float = 0.05
    seed: int = 0

    def on(self, device: str) -> Settings:
        """Return the settings with the defaults of a device, "cuda" or "cpu"."""
        batch, samples = (16, 8192) if device == "cuda" else (2, 64)
        return self._replace(
            batch=self.batch or batch,
            samples=samples if self.samples is None else self.samples,
        )

    def check(self) -> None:
        """Refuse what is out of range.

        Raises
        ------
        ArgumentError
            Something is.
        """
        rules = (
            ("minutes", 0 < self.minutes <= 100_000, "above 0, at most 100,000"),
            ("steps", self.steps is None or 1 <= self.steps < 1 << 31, "1 or more"),
            ("batch", self.batch is None or 1 <= self.batch <= 4096, "from 1 to 4096"),
            ("samples", self.samples is None or 0 <= self.samples <= 1 << 16, "from 0 to 65,536"),
            ("values", self.values in VALUES, " or ".join(VALUES)),
            ("keep", 0 < self.keep <= 1, "above 0, at most 1"),
            ("rounding", 0 <= self.rounding <= 1, "from 0 to 1"),
            ("scales", 0 <= self.scales <= 1, "from 0 to 1"),
            ("vectors", 0 <= self.vectors <= 1, "from 0 to 1"),
            ("hidden", 0 <= self.hidden <= 1e6, "from 0 to 1,000,000"),
            ("rare", 0 <= self.rare <= 1e6, "from 0 to 1,000,000"),
            ("seed", 0 <= self.seed < 1 << 32, "from 0 to 4,294,967,295"),
        )
        for name, is_right, expected in rules:
            if not is_right:
                found = getattr(self, name)
                sentence = f"--{name} is {found}, but must be {expected}"
                fix = f"give --{name} {expected}"
                raise ArgumentError("recover", name, found, expected, fix, sentence)
