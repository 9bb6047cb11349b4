"""The options of a compression, their defaults, and which of them go together."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyrwkv.errors import ArgumentError

from ..write.parts import split_parts

KEEP = 0.17
"""Share of the neurons that predictors choose, unless an option says otherwise."""

ROWS = 3072
"""Rows of the head that are read exactly for each token, unless an option says otherwise.

In a small vocabulary they are a `SHARE_OF_ROWS`, or nothing would be saved.
"""

SHARE_OF_ROWS = 1 / 4
"""The most of all rows that are read exactly, unless an option says otherwise."""

LIKELY_ROWS = 4096
"""Rows of a dense head in int4 that stay in int8, unless an option says otherwise.

In a small vocabulary they are a `SHARE_OF_ROWS`.
"""


class Options(NamedTuple):
    """What to do to a model; nothing by default.

    Attributes
    ----------
    low_rank : float, optional
        Factor every projection; the rank is 1/k of the width.
    rank_budget : float, optional
        Factor projections with adaptive ranks. This is the number of bytes that all projections
        together may take; a number of at most 1 is their share of the dense bytes.
    whiten : bool
        Fit the factors to the inputs that occur. A rank budget always does this.
    int4 : str, optional
        Round matrices to int4 by GPTQ: "body" means those of the layers, "body,head" the head
        too, "all" also the embedding.
    likely_rows : int, optional
        Rows of a dense head in int4 that stay in int8; `likely` tells it otherwise.
    sparse_ffn : str, optional
        "exact" reads only the values of neurons that fire: the same bits. "predict" reads only
        the neurons that a predictor chooses.
    keep : float, optional
        Share of the neurons that predictors choose.
    recall : float, optional
        Share of the energy that the chosen neurons must have, in the place of `keep`.
    mlp : int, optional
        Width of a small network in each layer, which chooses neurons besides the 1-bit predictor.
    head : str, optional
        "preview": a cheap preview of all logits chooses candidates; only their rows are read.
    head_rows : int, optional
        Number of candidates for each token; `candidates` tells it otherwise.
    max_nll_rise : float, optional
        Leave a technique out if it raises the nll of a held-out document by more than this share,
        on average.
    seed : int
        Of the samples that are drawn, and of the training of networks.
    """

    low_rank: float | None = None
    rank_budget: float | None = None
    whiten: bool = False
    int4: str | None = None
    likely_rows: int | None = None
    sparse_ffn: str | None = None
    keep: float | None = None
    recall: float | None = None
    mlp: int | None = None
    head: str | None = None
    head_rows: int | None = None
    max_nll_rise: float | None = None
    seed: int = 0

    def candidates(self, vocab_size: int) -> int:
        """Return how many rows of a head are read exactly for each token."""
        if self.head_rows is not None:
            return self.head_rows
        return max(1, min(ROWS, int(SHARE_OF_ROWS * vocab_size)))

    def likely(self, vocab_size: int) -> int:
        """Return how many rows of a head in int4 stay in int8: those of the likeliest tokens."""
        if self.head is not None:
            return 0
        if self.likely_rows is not None:
            return min(self.likely_rows, vocab_size - 1)
        return min(LIKELY_ROWS, int(SHARE_OF_ROWS * vocab_size))

    @property
    def factored(self) -> bool:
        """Whether projections become factors."""
        return self.low_rank is not None or self.rank_budget is not None

    @property
    def _has_int4_head(self) -> bool:
        """Whether a dense head becomes int4."""
        return self.int4 is not None and "head" in split_parts(self.int4) and self.head is None

    @property
    def is_sparse(self) -> bool:
        """Whether only the weights of some neurons are read."""
        return self.sparse_ffn is not None

    @property
    def lossless(self) -> bool:
        """Whether the model computes the same bits."""
        is_rounded = self.factored or self.int4 is not None
        return not is_rounded and self.sparse_ffn != "predict" and self.head is None

    @property
    def whitened(self) -> bool:
        """Whether factors are fitted to inputs."""
        return self.rank_budget is not None or (self.whiten and self.low_rank is not None)

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises
        ------
        ArgumentError
        """
        for is_broken, sentence, fix in self._rules():
            if is_broken:
                found, expected = sentence, "options that go together"
                raise ArgumentError("arguments", "options", found, expected, fix, sentence)

    def _rules(self) -> list[tuple[bool, str, str]]:
        """Return for each rule whether it is broken, what to say then, and the fix."""
        no_predictor = self.sparse_ffn != "predict"
        for_predictors = (self.keep, self.recall, self.mlp)
        return [
            (
                self.low_rank is not None and self.rank_budget is not None,
                "--low-rank and --rank-budget do not go together",
                "give one of them: the same rank for all, or adaptive ranks",
            ),
            (
                self.rank_budget is not None and not self.rank_budget > 0,
                f"a rank budget of {self.rank_budget} leaves nothing",
                "give bytes, such as 4MB, or a share, such as 70%",
            ),
            (
                no_predictor and any(value is not None for value in for_predictors),
                "--keep, --recall and --mlp are for neurons that are predicted",
                "add --sparse-ffn predict",
            ),
            (
                self.keep is not None and self.recall is not None,
                "--keep and --recall do not go together",
                "give one of them",
            ),
            (
                self.head_rows is not None and self.head is None,
                "--head-rows is for a head with a preview",
                "add --head preview",
            ),
            (
                self.likely_rows is not None and not self._has_int4_head,
                "--likely-rows is for a dense head in int4",
                "add --dtype int4 --parts body,head or --parts all, and leave --head out",
            ),
            (
                self.whiten and not self.whitened,
                "--whiten is for factors",
                "add --low-rank 4 or --rank-budget 70%",
            ),
        ]

    def as_arguments(self) -> str:
        """Return the options as they are given on a command line; "none" without any.

        Examples
        --------
        >>> Options(rank_budget=0.65, whiten=True).as_arguments()
        '--rank-budget 65% --whiten'
        """
        given = [
            _argument(name, value)
            for name, value in self._asdict().items()
            if value != self._field_defaults[name]
        ]
        return " ".join(given) or "none"


def _argument(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if value is True:
        return flag
    if name == "int4":
        return f"--dtype int4 --parts {value}"
    if name == "rank_budget":
        return f"{flag} {100 * value:g}%" if value <= 1 else f"{flag} {int(value)}"
    return f"{flag} {value}"
