"""The numbers of a tracker that are neither asked for nor derived. Those called measured were chosen in sweeps over eight to 41
trainings of digits at the edge of stability (`tracking.md`)."""

from typing import NamedTuple


class Policy(NamedTuple):
    """How far an operator is thought to move, when a memory is trusted, and what is measured without need."""

    gain: float = 2.2  # drift = gain · largest measured change of a value; measured: 1.5 is too little
    decay: float = 0.9  # the drift is multiplied by this each step; measured: changes at the edge of stability come in bursts
    least_decay: float = 0.5  # but by no less than this each look: one small change says little, however many steps lie between
    least_drift: float = 2e-3  # the drift is at least this times the size: nothing stands still
    first_drift: float = 0.1  # the drift after the first look, over the size: no change was measured yet
    most_rise: float = 0.1  # a trend is at most this times the size, a look
    jump: float = 0.35  # of the first product's size: with more drift, growth or rounding the look is a cold one; measured
    margin: float = 1.0  # of a bracket's width, added to the reported upper end, because drift is an estimate; measured
    least_width: float = 0.5  # of the tolerance, added to it too, except after a cold look; measured
    equal: float = 0.25  # of the tolerance: values that are nearer may be copies of one, of which others were missed; measured
    recent: int = 2  # looks: a memory older than this is not used
    better: float = 3.0  # use the other side's memory if its bounds are this many times narrower
    most_lost: float = 1e-4  # the largest share, ‖·‖², of a Ritz vector that writing v₁ alone may lose; else all are written
    cold_tol: float = 2e-3  # of a cold look's residuals, relative; measured: guards at 1e-2 are not good enough
    rounds: int = 12  # how often a cold look may fill its space
    guard_every: int = 11  # looks: then the guard with the widest bound is multiplied. Odd, so that both sides get it; measured
    scout_every: int = 99  # looks: then a short Lanczos run starts from a direction outside of all that is remembered
    forget: float = 0.99  # of the reach, a look


POLICY = Policy()
