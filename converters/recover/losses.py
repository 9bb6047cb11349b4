"""What the student is trained to lower: how far its predictions are from the teacher's.

Logits of a large vocabulary need more memory than all else. They are computed for some tokens at a
time, and their gradient is turned into that of the head's input at once: the head is not trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .scan import Tensor

LOGITS = 1 << 26
"""Logits at a time: 256 MB of float32, of which there are four at most."""


def divergence(
    student: Tensor, teacher: Tensor, head: Tensor, rare: float
) -> tuple[Tensor, Tensor]:
    """Return the KL divergence, and the gradient of what is to be lowered.

    ::

        p = softmax(head @ teacher),  q = softmax(head @ student)
        KL = sum_v p_v (log p_v - log q_v)
        loss = KL + rare / 2V sum_v e_v^2,  e = log q - log p
        d loss / d student = head^T (q - p + rare / V (e - q sum_v e_v))

    Parameters
    ----------
    student, teacher : Tensor, shape (n, C)
        What goes into the head.
    head : Tensor, shape (V, C)
    rare : float
        How much the errors of all log probabilities count; KL hardly counts improbable tokens.

    Returns
    -------
    divergence : Tensor
        The mean KL, in nats.
    gradient : Tensor, shape (n, C)
        Of the mean loss with respect to `student`.
    """
    total = student.new_zeros(())
    gradients = []
    with torch.no_grad():
        for x, y in zip(_pieces(student, head), _pieces(teacher, head), strict=True):
            log_q = F.log_softmax(x @ head.T, -1)
            log_p = F.log_softmax(y @ head.T, -1)
            p = log_p.exp()
            apart = log_p.neg_().add_(log_q)  # e
            total -= (p * apart).sum()
            q = log_q.exp_()
            gradient = p.neg_().add_(q)
            if rare:
                apart -= q.mul_(apart.sum(-1, keepdim=True))
                gradient += apart.mul_(rare / len(head))
            gradients.append(gradient @ head)
    count = len(student)
    return total / count, torch.cat(gradients) / count


def negative_log_likelihood(x: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the losses of the tokens that follow.

    Parameters
    ----------
    x : Tensor, shape (n, C)
    head : Tensor, shape (V, C)
    targets : Tensor, int64, shape (n,)
    """
    total = x.new_zeros(())
    with torch.no_grad():
        for part, aim in zip(_pieces(x, head), _pieces(targets, head), strict=True):
            total += F.cross_entropy(part @ head.T, aim, reduction="sum")
    return total


def distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return how far residual streams are apart.

    ::

        mean over layers of |x - y|^2 / |y|^2

    Parameters
    ----------
    student, teacher : sequence of Tensor, shape (B, T, C)
        After each layer.
    """
    parts = [
        (x - y).square().mean() / y.square().mean() for x, y in zip(student, teacher, strict=True)
    ]
    return torch.stack(parts).mean()


def _pieces(x: Tensor, head: Tensor) -> tuple[Tensor, ...]:
    pieces: tuple[Tensor, ...] = x.split(max(1, LOGITS // len(head)))
    return pieces
