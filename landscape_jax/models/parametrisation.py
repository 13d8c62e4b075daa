"""Where the widths of a network go: into the variance of its weights, or into factors in front of them.

A layer computes h' = a W h + a_b b with W_ij ~ N(0, s v), s the user's `init_scale`. All layers train with one and the same
learning rate, so that the choice of (v, a, a_b) decides how far each of them moves as the width n grows.
"""

from collections.abc import Callable
from typing import NamedTuple


class Scaling(NamedTuple):
    """How one layer is scaled."""

    variance: float  # v, of each weight at init, times init_scale
    weight: float  # a, in front of W
    bias: float  # a_b, in front of b


Parametrisation = Callable[[int, int, bool, bool], Scaling]  # (fan_in, fan_out, is it first, is it last) ↦ Scaling


def standard(fan_in: int, fan_out: int, first: bool, last: bool) -> Scaling:
    """v = 1/fan_in, a = 1: what frameworks do. Sharpness at init grows with width, and the best learning rate falls."""
    return Scaling(1 / fan_in, 1, 1)


def ntk(fan_in: int, fan_out: int, first: bool, last: bool) -> Scaling:
    """v = 1, a = 1/√fan_in: the same function at init as `standard`; with steps O(1) in width the kernel stays fixed as n → ∞.

    Source: A. Jacot et al. 2018, arXiv 1806.07572, §3.
    """
    return Scaling(1, fan_in**-0.5, 1)


def mup(fan_in: int, fan_out: int, first: bool, last: bool) -> Scaling:
    """Maximal update: every layer learns features at the same rate whatever the width, so that learning rates transfer.

        first    v = 1/(n fan_in), a = √n        hidden   v = 1/n, a = 1        last   v = 1/n, a = 1/√n

    Outputs at init are O(1/√n). Biases of hidden layers, which are input weights, have a_b = √n.
    Source: G. Yang and E. Hu 2021, arXiv 2011.14522, Table 1 (μP for SGD, c = 0).
    """
    if first and last:
        return standard(fan_in, fan_out, first, last)
    if first:
        return Scaling(1 / (fan_in * fan_out), fan_out**0.5, fan_out**0.5)
    if last:
        return Scaling(1 / fan_in, fan_in**-0.5, 1)
    return Scaling(1 / fan_in, 1, fan_out**0.5)
