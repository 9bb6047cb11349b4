"""The choice of the next token: bias, penalties, temperature, top-k, top-p, min-p, and a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from random import Random
from typing import Any, Protocol

import numpy as np

from .arguments import real_number, refusal, whole_number
from .errors import TinyRWKVError, attempt

MOST_IDS = 1 << 20  # ids that can be counted; bounds the memory
GREEDY_BELOW = 1e-4  # a temperature
LEAST_COUNT = 1e-12  # of a token that was seen: it stays seen
ROW = 256  # weights that are added up together before one is drawn


class TokenSampler(Protocol):
    """What a generation needs of an object that chooses tokens; `Sampler` is one."""

    def copy(self) -> TokenSampler:
        """Return an independent sampler: a generation uses only its own copy."""

    def reset(self) -> None:
        """Forget the tokens accepted: a generation begins."""

    def sample(self, logits: np.ndarray) -> tuple[int, float]:
        """Return a token and its logprob; `logits` (V,), float32, stay as they are."""

    def accept(self, token: int) -> None:
        """Take note that a token was added to the text."""


def _setting(default: Any, low: float, high: float) -> Any:
    """Declare a number with its range; if the default is an integer, the number must be one."""
    check = whole_number if isinstance(default, int) else real_number
    return field(default=default, metadata={"low": low, "high": high, "check": check})


@dataclass(eq=False)
class Sampler:
    """Chooses tokens, in this order: bias, penalties, temperature, top-k, top-p, min-p, one draw.

    It counts the tokens accepted, draws from its own generator and has buffers: give every thread a
    `copy`.

    Parameters
    ----------
    temperature : float, optional
        Divides the logits, up to 1e4. Below 1e-4 it is greedy: the most probable token, and among
        equals the one with the lowest id.
    top_k : int, optional
        Keep the `top_k` most probable tokens; 0 keeps all, 1 is greedy.
    top_p : float, optional
        Of the tokens that top-k left, keep the most probable ones: as few as together have this
        share of the probability. 0 is greedy.
    min_p : float, optional
        Keep the tokens that are at least `min_p` times as probable as the most probable one.
    presence_penalty, frequency_penalty : float, optional
        Tokens seen have ``presence_penalty + frequency_penalty * count`` subtracted from their
        logits.
    repetition_penalty : float, optional
        Divides the positive logits of tokens seen, and multiplies the negative ones, before the
        other two penalties.
    penalty_decay : float, optional
        Multiplies every count, 0.01 to 1, when another token is accepted.
    logit_bias : mapping of int to float, optional
        Numbers that are added to the logits of these ids; ``-inf`` bans an id.
    seed : int, optional
        The same seed draws the same tokens from the same logits. By default the operating system
        gives one.

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
        """Check the settings; begin with no token counted."""
        for setting in fields(self):
            if setting.metadata:
                name, about = setting.name, setting.metadata
                value = getattr(self, name)
                number = about["check"]("Sampler", name, value, about["low"], about["high"])
                setattr(self, name, number)
        if self.seed is not None:
            self.seed = whole_number("Sampler", "seed", self.seed, 0, 2**64 - 1)
        self._set_bias()
        subtracted = self.presence_penalty != 0 or self.frequency_penalty != 0
        self._penalised = subtracted or self.repetition_penalty != 1
        self._counts = np.zeros(0, np.float32)  # (V,) as soon as V is known
        self._weights = np.empty(0, np.float32)  # (V,) too
        self._adjusted = np.empty(0, np.float32)  # (V,) too
        self._random: Random | None = None  # Python's own: numpy.random would take 7 MB

    def _set_bias(self) -> None:
        if not isinstance(self.logit_bias, (Mapping, type(None))):
            fix = "pass {id: bias}"
            raise refusal("Sampler", "logit_bias", self.logit_bias, "a mapping", fix)
        self.logit_bias = {} if self.logit_bias is None else dict(self.logit_bias)
        ids: list[int] = []
        biases: list[float] = []
        for token, bias in self.logit_bias.items():
            what = "a token id in logit_bias"
            ids.append(whole_number("Sampler", "logit_bias", token, 0, MOST_IDS - 1, what=what))
            what = f"the bias of token {ids[-1]} in logit_bias"
            biases.append(real_number("Sampler", "logit_bias", bias, -math.inf, 1e4, what=what))
        self._bias_ids = np.array(ids, np.int64)
        self._bias = np.array(biases, np.float32)

    def sample(self, logits: np.ndarray) -> tuple[int, float]:
        """Choose a token, without counting it: see `accept`.

        Parameters
        ----------
        logits : ndarray, float32, shape (V,)
            ``-inf`` for tokens that are not allowed. It is not changed.

        Returns
        -------
        token : int
        logprob : float
            Natural logarithm of its probability under the logits as given, before bias, penalties
            and temperature.

        Raises
        ------
        ArgumentError
            `logits` is not one row, or too short for an id in `logit_bias`.
        TinyRWKVError
            A logit is NaN or +inf, or no token is allowed.
        """
        logits, ids, weights = self._candidates(logits)
        place = 0
        if len(ids) > 1:
            if self._random is None:
                self._random = Random(self.seed)
            place = draw(weights, self._random.random())
        token = int(ids[place])
        return token, self._logprob(logits, token)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities that `sample` draws from; raise the same errors.

        Parameters
        ----------
        logits : ndarray, float32, shape (V,)

        Returns
        -------
        ndarray, float32, shape (V,)
            0 for the tokens left out.

        Examples
        --------
        >>> chances = Sampler(top_k=2).probabilities(np.array([0, 2, 1], np.float32))
        >>> (1000 * chances).astype(int).tolist()
        [0, 731, 268]
        """
        logits, ids, weights = self._candidates(logits)
        result = np.zeros(logits.size, np.float32)
        with np.errstate(all="ignore"):  # what float32 cannot hold counts as 0
            result[ids] = weights / weights.sum(dtype=np.float64)
        return result

    def top(self, logits: np.ndarray, n: int = 5) -> list[tuple[int, float]]:
        """Return the most probable tokens under the logits as given; raise the errors of `sample`.

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
        >>> best = Sampler().top(np.array([0, 2, 1], np.float32), 2)
        >>> [(token, round(chance, 3)) for token, chance in best]
        [(1, 0.665), (2, 0.245)]
        """
        n = whole_number("Sampler", "n", n, 0, MOST_IDS - 1)
        with np.errstate(all="ignore"):
            logits = self._measure(logits)
            ids = _largest(self._weights, min(n, logits.size), math.inf).tolist()
        return [(token, math.exp(self._logprob(logits, token))) for token in ids]

    def accept(self, token: int) -> None:
        """Count a token for the penalties and let the earlier counts decay.

        Parameters
        ----------
        token : int

        Raises
        ------
        ArgumentError
            It is not a token id.
        """
        token = whole_number("Sampler", "token", token, 0, MOST_IDS - 1)
        if not self._penalised:
            return
        if token >= self._counts.size:
            size = max(token + 1, self._weights.size)
            self._counts = np.pad(self._counts, (0, size - self._counts.size))
        seen = np.flatnonzero(self._counts > 0)
        self._counts[seen] = np.maximum(self._counts[seen] * self.penalty_decay, LEAST_COUNT)
        self._counts[token] += 1

    def reset(self) -> None:
        """Forget the tokens accepted. The random generator goes on."""
        self._counts[:] = 0

    def copy(self) -> Sampler:
        """Return an independent sampler with the same counts.

        With a seed, it draws the same random numbers from here on.

        Returns
        -------
        Sampler
        """
        # What never changes is shared: a bias for each token is slow to copy.
        fixed = (self.logit_bias, self._bias_ids, self._bias)
        other = deepcopy(self, {id(value): value for value in fixed})
        if self.seed is None:
            other._random = None
        return other

    def _logprob(self, logits: np.ndarray, token: int) -> float:
        """Return the logarithm of a probability under the logits that were measured."""
        return float(logits[token]) - self._peak - self._log_sum

    def _candidates(
        self, logits: np.ndarray
    ) -> tuple[np.ndarray, Sequence[int] | np.ndarray, np.ndarray]:
        """Return the logits as float32, the ids to draw from and their weights."""
        with np.errstate(all="ignore"):
            logits = self._measure(logits)
            changed = self._penalised or self._bias.size > 0
            adjusted = self._adjust(logits) if changed else logits
            peak, best = _peak(adjusted)
            if self.temperature < GREEDY_BELOW or self.top_k == 1 or self.top_p == 0:
                return logits, np.array([best]), np.ones(1)
            if changed or self.temperature != 1:  # otherwise they are as _measure left them
                np.subtract(adjusted, peak, out=self._weights)
                self._weights /= self.temperature
                np.exp(self._weights, out=self._weights)
            return logits, *self._truncate(self._weights)

    def _measure(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits as float32, and keep what their probabilities are computed from.

        P(token) = exp(logit - _peak) / sum exp(logits - _peak), where _weights are the terms of the
        sum and _log_sum is its logarithm.
        """
        row = attempt(lambda: np.asarray(logits))
        if row is None or row.ndim != 1 or row.size == 0 or row.dtype.kind not in "fiu":
            raise refusal("Sampler", "logits", logits, "one row of numbers, (V,)", "pass one row")
        logits = row.astype(np.float32, copy=False)
        if self._weights.size != logits.size:
            self._weights = np.empty_like(logits)
            self._adjusted = np.empty_like(logits)
        self._peak, _ = _peak(logits)
        np.subtract(logits, self._peak, out=self._weights)
        np.exp(self._weights, out=self._weights)
        total = self._weights.sum(dtype=np.float64)  # float32 loses what is small beside 1
        self._log_sum = math.log(total)
        return logits

    def _adjust(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits with bias and penalties, in _adjusted."""
        adjusted = self._adjusted
        adjusted[:] = logits
        largest = int(self._bias_ids.max(initial=0))
        if largest >= logits.size:
            expected = f"below {logits.size:,}, as the model's are"
            what = "the largest id in logit_bias"
            raise refusal("Sampler", "logit_bias", largest, expected, "leave it out", what)
        adjusted[self._bias_ids] += self._bias
        if self._penalised:
            # flatnonzero is ten times as fast with truth values as with numbers.
            seen = np.flatnonzero(self._counts[: logits.size] > 0)
            adjusted[seen] = self._penalise(adjusted[seen], self._counts[seen])
        return adjusted

    def _penalise(self, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the logits of tokens seen, lowered according to their counts."""
        factor = self.repetition_penalty
        values = np.where(values > 0, values / factor, values * factor)
        return values - (self.presence_penalty + self.frequency_penalty * counts)

    def _truncate(self, weights: np.ndarray) -> tuple[Sequence[int] | np.ndarray, np.ndarray]:
        """Return the ids that top-k, top-p and min-p leave, and their weights; the largest is 1."""
        size = weights.size
        count = min(self.top_k or size, size)
        if count == size and self.top_p == 1:
            if self.min_p == 0:
                return range(size), weights
            ids = np.flatnonzero(weights >= self.min_p)
            return ids, weights[ids]
        if count < size:
            ids = _largest(weights, count, math.inf)
            sums = np.cumsum(weights[ids], dtype=np.float64)
            mass = self.top_p * sums[-1]
        else:
            mass = self.top_p * weights.sum(dtype=np.float64)
            ids = _largest(weights, size, mass)
            sums = np.cumsum(weights[ids], dtype=np.float64)
        if self.top_p < 1:
            ids = ids[: np.searchsorted(sums, mass) + 1]
        kept = weights[ids]
        probable = kept >= self.min_p
        return ids[probable], kept[probable]


def draw(weights: np.ndarray, share: float) -> int:
    """Return the first place at which the running sum of weights exceeds a share of their total.

    Parameters
    ----------
    weights : ndarray, float32, shape (n,)
        Not negative, and not all 0.
    share : float
        At least 0 and below 1. If it is drawn evenly, a place is drawn in proportion to its weight.

    Returns
    -------
    int
        Never a place of weight 0.

    Examples
    --------
    >>> weights = np.array([1, 0, 3], np.float32)
    >>> draw(weights, 0.24), draw(weights, 0.25)
    (0, 2)
    """
    # NumPy computes sums of rows ten times as fast as running sums.
    row_sums = np.add.reduceat(weights, np.arange(0, weights.size, ROW), dtype=np.float64)
    ends = np.cumsum(np.append(0, row_sums))
    sought = share * ends[-1]
    row = _place(ends, sought) - 1
    begin = ROW * row
    sums = np.cumsum(weights[begin : begin + ROW], dtype=np.float64)
    return begin + _place(ends[row] + sums, sought)


def _place(sums: np.ndarray, sought: float) -> int:
    """Return the first place where running sums exceed a number.

    Rounding may make the number as large as the last sum. Then it is the first place that has the
    last sum.
    """
    above = np.searchsorted(sums, sought, side="right")
    last = np.searchsorted(sums, sums[-1])
    return int(min(above, last))


def _largest(weights: np.ndarray, count: int, mass: float) -> np.ndarray:
    """Return the ids of the `count` largest weights, or of fewer that together weigh `mass`.

    The largest, which is 1, comes first. Among equal weights the lowest id comes first.
    """
    # The many small weights are seldom needed, so they are seldom sorted.
    for floor in (1e-2, 1e-3, 1e-4, 0.0):
        ids = np.flatnonzero(weights >= floor)
        if ids.size >= count or weights[ids].sum(dtype=np.float64) >= mass:
            break
    if ids.size > count:
        least = np.partition(weights[ids], -count)[-count]
        ids = ids[weights[ids] >= least]
    order = np.argsort(-weights[ids], kind="stable")
    return ids[order[:count]]


def _peak(logits: np.ndarray) -> tuple[float, int]:
    """Return the largest logit and its id, the lowest among equals; NaN counts as the largest."""
    best = int(logits.argmax())
    peak = float(logits[best])
    if math.isfinite(peak):
        return peak, best
    expected = "finite numbers, -inf for what is not allowed"
    if peak == -math.inf:
        found = "only -inf: no token is allowed"
        sentence = "Sampler: no token is allowed, all logits are -inf"
        fix = "loosen the constraint or logit_bias"
    else:
        found = f"{peak} at id {best:,}"
        sentence = f"Sampler: the logits hold {found}"
        fix = "verify the file and begin a new state"
    raise TinyRWKVError("Sampler", "logits", found, expected, fix, sentence)
