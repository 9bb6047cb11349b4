"""The choice of the next token: bias, penalties, temperature, top-k, top-p, min-p, and a seed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any

import numpy as np

from .errors import ArgumentError, TinyRWKVError

MOST_IDS = 1 << 20  # ids that can be counted; bounds the memory


def _setting(default: Any, low: float, high: float) -> Any:
    """Declare a number with its range; where the default is an integer, it must be one."""
    convert = operator.index if isinstance(default, int) else float
    return field(default=default, metadata={"low": low, "high": high, "convert": convert})


@dataclass(eq=False)
class Sampler:
    """Chooses tokens, in this order: bias, penalties, temperature, top-k, top-p, min-p, one random number.

    It counts the tokens accepted, draws from its own generator and has buffers: give every thread a `copy`.

    Parameters
    ----------
    temperature : float, optional
        Divides the logits, up to 1e4; below 1e-4 greedy: the most probable token, the lowest id among equals.
    top_k : int, optional
        Keep so many most probable tokens; 0 keeps all, 1 is greedy.
    top_p : float, optional
        Keep the fewest most probable tokens with this share of the probability that top-k left; 0 is greedy.
    min_p : float, optional
        Keep the tokens at least so many times as probable as the most probable one.
    presence_penalty, frequency_penalty : float, optional
        Tokens seen have ``presence_penalty + frequency_penalty * count`` subtracted from their logits.
    repetition_penalty : float, optional
        Before that it divides the positive logits of tokens seen and multiplies the negative ones.
    penalty_decay : float, optional
        Multiplies every count, 0.01 to 1, when another token is accepted.
    logit_bias : mapping of int to float, optional
        Is added to the logits of these ids; ``-inf`` bans an id.
    seed : int, optional
        The same seed draws the same tokens from the same logits. Without one the operating system gives it.

    Raises
    ------
    ArgumentError
        A setting is out of its range.

    Examples
    --------
    >>> token, logprob = Sampler(temperature=0).sample(np.array([0, 2, 1], np.float32))
    >>> token, round(logprob, 3)
    (1, -0.408)
    """

    temperature: float = _setting(1.0, 0, 1e4)
    top_k: int = _setting(0, 0, MOST_IDS - 1)
    top_p: float = _setting(1.0, 0, 1)
    min_p: float = _setting(0.0, 0, 1)
    presence_penalty: float = _setting(0.0, -1e4, 1e4)
    frequency_penalty: float = _setting(0.0, -1e4, 1e4)
    repetition_penalty: float = _setting(1.0, 1e-4, 1e4)
    penalty_decay: float = _setting(0.996, 0.01, 1)
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check the settings, begin with nothing counted."""
        for setting in fields(self):
            if setting.metadata:
                setattr(
                    self,
                    setting.name,
                    _number(setting.name, getattr(self, setting.name), **setting.metadata),
                )
        self.seed = None if self.seed is None else _integer("seed", self.seed, 2**64)
        if not isinstance(self.logit_bias, (Mapping, type(None))):
            raise ArgumentError(
                "Sampler", "logit_bias", repr(self.logit_bias), "a mapping", "pass {id: bias}"
            )
        self.logit_bias = bias = dict(self.logit_bias or {})
        self._bias_ids = np.array([_integer("logit_bias", token) for token in bias], np.int64)
        self._bias = np.array(
            [_number("logit_bias", value, -math.inf, 1e4) for value in bias.values()], np.float32
        )
        self._penalised = (
            self.presence_penalty,
            self.frequency_penalty,
            self.repetition_penalty,
        ) != (0, 0, 1)
        self._counts = np.zeros(0, np.float32)  # (V,) as soon as V is known
        self._weights = self._adjusted = np.empty(0, np.float32)  # (V,) too
        self._random: Random | None = None  # Python's own: numpy.random would take 7 MB

    def sample(self, logits: np.ndarray) -> tuple[int, float]:
        """Choose a token, without counting it: see `accept`.

        Parameters
        ----------
        logits : ndarray, float32, shape (V,)
            ``-inf`` where a token is not allowed. Not changed.

        Returns
        -------
        token : int
        logprob : float
            Natural logarithm of its probability under the logits as given, before bias, penalties and temperature.

        Raises
        ------
        ArgumentError
            `logits` is not one row, or too short for an id in `logit_bias`.
        TinyRWKVError
            A logit is NaN or +inf, or no token is allowed.
        """
        logits, ids, weights = self._choices(logits)
        place = 0
        if len(ids) > 1:
            if self._random is None:
                self._random = Random(self.seed)
            place = _draw(weights, self._random.random())
        token = int(ids[place])
        return token, float(logits[token]) - self._peak - self._log_sum

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return what `sample` draws from; raises as it does.

        Parameters
        ----------
        logits : ndarray, float32, shape (V,)

        Returns
        -------
        ndarray, float32, shape (V,)
            0 for the tokens left out.

        Examples
        --------
        >>> (1000 * Sampler(top_k=2).probabilities(np.array([0, 2, 1], np.float32))).astype(int).tolist()
        [0, 731, 268]
        """
        logits, ids, weights = self._choices(logits)
        result = np.zeros(logits.size, np.float32)
        result[ids] = weights / weights.sum(dtype=np.float64)
        return result

    def top(self, logits: np.ndarray, n: int = 5) -> list[tuple[int, float]]:
        """Return the most probable tokens under the logits as given; raises as `sample` does.

        Parameters
        ----------
        logits : ndarray, float32, shape (V,)
        n : int, optional
            How many.

        Returns
        -------
        list of (int, float)
            Id and probability, the most probable first.

        Examples
        --------
        >>> [(token, round(p, 3)) for token, p in Sampler().top(np.array([0, 2, 1], np.float32), 2)]
        [(1, 0.665), (2, 0.245)]
        """
        n = _integer("n", n)
        with np.errstate(all="ignore"):
            logits = self._measure(logits)
            ids = _largest(self._weights, min(n, logits.size), math.inf)
        return [
            (int(token), math.exp(float(logits[token]) - self._peak - self._log_sum))
            for token in ids
        ]

    def accept(self, token: int) -> None:
        """Count a token for the penalties and let the earlier counts decay.

        Parameters
        ----------
        token : int

        Raises
        ------
        ArgumentError
            It is no id.
        """
        token = _integer("token", token)
        if not self._penalised:
            return
        if token >= self._counts.size:
            self._counts = np.pad(
                self._counts, (0, max(token + 1, self._weights.size) - self._counts.size)
            )
        seen = np.flatnonzero(self._counts > 0)
        self._counts[seen] = np.maximum(
            self._counts[seen] * self.penalty_decay, 1e-12
        )  # what was seen stays seen
        self._counts[token] += 1

    def reset(self) -> None:
        """Forget the tokens accepted. The random generator goes on."""
        self._counts[:] = 0

    def copy(self) -> Sampler:
        """Return an independent sampler: the same counts and, with a seed, the same random numbers to come.

        Returns
        -------
        Sampler
        """
        other = deepcopy(self)
        if self.seed is None:
            other._random = None
        return other

    def _choices(
        self, logits: np.ndarray
    ) -> tuple[np.ndarray, Sequence[int] | np.ndarray, np.ndarray]:
        """Return the logits as float32, the ids to draw from and their weights."""
        with np.errstate(all="ignore"):
            logits = self._measure(logits)
            adjusted = self._adjust(logits) if self._penalised or self._bias.size else logits
            peak, best = _peak(adjusted)
            if self.temperature < 1e-4 or self.top_k == 1 or self.top_p == 0:
                return logits, np.array([best]), np.ones(1)
            if adjusted is not logits or self.temperature != 1:
                np.subtract(adjusted, peak, out=self._weights)
                self._weights /= self.temperature
                np.exp(self._weights, out=self._weights)
            return logits, *self._keep(self._weights)

    def _measure(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits as float32; leaves exp(logits - _peak) in _weights and the log of its sum in _log_sum."""
        logits = np.asarray(logits, np.float32)
        if logits.ndim != 1 or logits.size == 0:
            raise ArgumentError(
                "Sampler", "logits", f"shape {logits.shape}", "(V,)", "pass one row"
            )
        if self._weights.size != logits.size:
            self._weights, self._adjusted = np.empty_like(logits), np.empty_like(logits)
        self._peak, _ = _peak(logits)
        np.subtract(logits, self._peak, out=self._weights)
        np.exp(self._weights, out=self._weights)
        self._log_sum = math.log(
            self._weights.sum(dtype=np.float64)
        )  # float32 loses what is small beside 1
        return logits

    def _adjust(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits with bias and penalties, in _adjusted."""
        adjusted, factor = self._adjusted, self.repetition_penalty
        adjusted[:] = logits
        if self._bias.size and (last := self._bias_ids.max()) >= logits.size:
            expected = f"ids below {logits.size:,}"
            raise ArgumentError("Sampler", "logit_bias", f"id {last:,}", expected, "leave it out")
        adjusted[self._bias_ids] += self._bias
        if not self._penalised:
            return adjusted
        seen = np.flatnonzero(
            self._counts[: logits.size] > 0
        )  # of truth values it is ten times as fast
        values, counts = adjusted[seen], self._counts[seen]
        values = np.where(values > 0, values / factor, values * factor)
        adjusted[seen] = values - (self.presence_penalty + self.frequency_penalty * counts)
        return adjusted

    def _keep(self, weights: np.ndarray) -> tuple[Sequence[int] | np.ndarray, np.ndarray]:
        """Return the ids that top-k, top-p and min-p leave, and their weights. The largest weight is 1."""
        count = min(self.top_k or weights.size, weights.size)
        every = count == weights.size
        if every and (self.top_p, self.min_p) == (1, 0):
            return range(count), weights
        mass = self.top_p * weights.sum(dtype=np.float64) if every else math.inf
        ids = (
            np.flatnonzero(weights >= self.min_p)
            if every and self.top_p == 1
            else _largest(weights, count, mass)
        )
        kept = weights[ids]
        if self.top_p < 1:
            cumulative = np.cumsum(kept, dtype=np.float64)
            end = np.searchsorted(cumulative, mass if every else self.top_p * cumulative[-1]) + 1
            ids, kept = ids[:end], kept[:end]
        return ids[kept >= self.min_p], kept[kept >= self.min_p]


def _draw(weights: np.ndarray, share: float) -> int:
    """Return where the sum of the weights up to there exceeds a share of all: never a place of weight 0."""
    # Sums of 256 first: NumPy takes a tenth of the time to add up rows that it needs for running sums.
    ends = np.cumsum(
        np.append(0, np.add.reduceat(weights, np.arange(0, weights.size, 256), dtype=np.float64))
    )
    sought = share * ends[-1]
    row = _place(ends, sought) - 1
    return 256 * row + _place(
        ends[row] + np.cumsum(weights[256 * row :][:256], dtype=np.float64), sought
    )


def _place(sums: np.ndarray, sought: float) -> int:
    """Return the first of running sums above one that is sought, which by rounding may be no less than the last."""
    return int(min(np.searchsorted(sums, sought, side="right"), np.searchsorted(sums, sums[-1])))


def _largest(weights: np.ndarray, count: int, mass: float) -> np.ndarray:
    """Return the ids of the `count` largest weights, or of fewer that weigh `mass`: largest first, then lowest id."""
    for floor in (
        1e-2,
        1e-3,
        1e-4,
        0.0,
    ):  # the largest is 1; the long tail is seldom needed, so seldom sorted
        ids = np.flatnonzero(weights >= floor)
        if ids.size >= count or weights[ids].sum(dtype=np.float64) >= mass:
            break
    if ids.size > count:
        ids = ids[weights[ids] >= np.partition(weights[ids], -count)[-count]]
    return ids[np.argsort(-weights[ids], kind="stable")[:count]]


def _peak(logits: np.ndarray) -> tuple[float, int]:
    """Return the largest logit and its id, the lowest among equals. NaN counts as the largest to argmax."""
    best = int(logits.argmax())
    peak = float(logits[best])
    if not math.isfinite(peak):
        found = "only -inf: no token is allowed" if peak == -math.inf else f"{peak} at id {best:,}"
        fix = "loosen the constraint or logit_bias; if nan or inf, verify the file and begin a new state"
        raise TinyRWKVError(
            "Sampler", "logits", found, "finite numbers, -inf for what is not allowed", fix
        )
    return peak, best


def _number(
    name: str, value: Any, low: float, high: float, convert: Callable[[Any], Any] = float
) -> Any:
    try:
        number = convert(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise ArgumentError(
            "Sampler", name, repr(value), f"{low:,} to {high:,}", "choose one in that range"
        )
    return number


def _integer(name: str, value: Any, limit: int = MOST_IDS) -> Any:
    return _number(name, value, 0, limit - 1, operator.index)
