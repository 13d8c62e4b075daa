"""One noisy step on a slope with curvature: when does the loss go up?

Along a direction e the loss is L(θ + x e) ≈ L + s x + ½ λ x², s = ḡ·e. A step with component c along e, random because the
minibatch is, taken α times, changes it on average by

    E ΔL = α s E[c] + ½ α² λ E[c²],

a parabola in α that starts downhill if s E[c] < 0, has its minimum at α*/2 and is back at 0 at

    α* = −2 s E[c] / (λ E[c²]).

For SGD c = −η g·e and E g = ḡ: α* = 2 (ḡ·e)² / (η λ E[(g·e)²]), and without noise α* = 2/(ηλ): taking α = 1, the loss goes
up where λ > 2/η. Noise lowers α*, by the part (ḡ·e)² / E[(g·e)²] of the gradient's energy along e that is signal.

Source: the measurement is that of S. Jastrzębski et al. 2019, arXiv 1807.05031, §4; the expansion is elementary.
"""

import numpy as np


def expected_change(multiple, slope, first, second, curvature):
    """E ΔL = α s E[c] + ½ α² λ E[c²], for arrays that broadcast.

    Args:
      multiple: α.
      slope: s = ḡ·e.
      first, second: E[c] and E[c²] of the step's component c = u·e.
      curvature: λ = eᵀ H e.

    >>> round(float(lj.theory.noisy_step.expected_change(2.0, slope=1.0, first=-0.1, second=0.02, curvature=10.0)), 6)
    0.2
    """
    return multiple * slope * first + 0.5 * multiple**2 * curvature * second


def critical_multiple(slope, first, second, curvature) -> np.ndarray:
    """α* = −2 s E[c] / (λ E[c²]): the multiple of the step above which the loss rises on average.

    0 where the step starts uphill; infinite where λ ≤ 0 and it starts downhill; NaN where it does not move. Arguments: as for
    `expected_change`.

    >>> float(lj.theory.noisy_step.critical_multiple(slope=1.0, first=-0.1, second=0.02, curvature=10.0))
    1.0
    """
    slope, first, second, curvature = (np.asarray(x, float) for x in (slope, first, second, curvature))
    descent, bend = -2 * slope * first, curvature * second
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(bend > 0, descent / bend, np.inf)
    ratio = np.where(descent > 0, ratio, 0.0)
    return np.where(second > 0, ratio, np.nan)


def sgd_critical_multiple(rate, slope, second_gradient, curvature) -> np.ndarray:
    """α* = 2 (ḡ·e)² / (η λ E[(g·e)²]): the same for SGD, whose mean step is known to be −η ḡ.

    Args:
      rate: η.
      slope: ḡ·e.
      second_gradient: E[(g·e)²] over minibatches.
      curvature: λ.

    >>> round(float(lj.theory.noisy_step.sgd_critical_multiple(0.1, slope=1.0, second_gradient=2.0, curvature=10.0)), 6)
    1.0
    """
    slope, rate = np.asarray(slope, float), np.asarray(rate, float)
    return critical_multiple(slope, -rate * slope, rate**2 * np.asarray(second_gradient, float), curvature)
