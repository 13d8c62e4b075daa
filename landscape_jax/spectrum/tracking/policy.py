"""The numbers of a tracker that are neither asked for nor derived."""

from typing import NamedTuple


class Policy(NamedTuple):
    """When a memory is trusted, and how often what nobody asked for is looked at."""

    gain: float = 2.2  # drift is so many times the change that was measured: one vector's change stands for all
    decay: float = 0.93  # of the drift, a step: changes at the edge of stability come in bursts of about ten steps
    least_decay: float = 0.5  # of the drift, a look: one small change says little, however many steps lie between
    whole: float = 1.0
    outer: float = 1.0
    most_rise: float = 0.1
    trending: float = 1.0
    jump: float = 0.5
    least_drift: float = 2e-3  # a look, of the largest |eigenvalue| seen at this look: nothing stands still
    first_drift: float = 0.1  # as long as no change was measured
    recent: int = 2  # looks: a memory that is older is no start
    better: float = 3.0  # times less doubt, and the other side's memory is the start
    most_lost: float = 1e-4  # of the span of b vectors, squared, that rewriting v₁ alone may lose
    first_tol: float = 1e-2  # of a first look's residuals at most: what is missed there is found by scouts alone
    first_rounds: int = 12  # a first look
    guard_every: int = 11  # looks: then the guard in most doubt is multiplied. Odd, so that both sides get it
    scout_every: int = 99  # looks: then a short Lanczos run starts from a direction nobody has seen
    forget: float = 0.99  # of the reach, a look: the largest |eigenvalue| seen
