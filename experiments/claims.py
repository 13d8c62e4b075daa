"""Claims of a paper, and the one judge of them.

A claim is a function of a record that gives one effect for each independent initialisation. The judge puts an interval around
the mean effect and compares it with the claim's margin:

    effects [n]  →  mean, 95 % interval  →  reproduced | refuted | undecided | not tested

    @claim("peak-falls-with-rate", kind="claim", source="...", statement="...", above=0.0)
    def peak_falls(record, config):
        '''Slope of log peak sharpness on log η, with its sign turned; over all rates.'''
        return -slopes                                              # [n], one for each initialisation

The docstring is the criterion: what the effect is. The judge adds what the interval must do.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

Kind = Literal["claim", "theory", "exploratory"]
REPRODUCED, REFUTED, UNDECIDED, NOT_TESTED = "reproduced", "refuted", "undecided", "not tested"
FEWEST, MANY = 4, 16  # initialisations: below FEWEST there is no interval, from MANY on it is the bootstrap's
RESAMPLES = 5000


@dataclasses.dataclass(frozen=True)
class Claim:
    """One statement of a paper, and how a record is asked about it.

    `kind` is "claim" for what the paper says; "theory" for a formula that is held against its own simulation, with no chance
    in it; "exploratory" for findings of ours. Only the first kind is counted.
    """

    id: str
    statement: str
    source: str  # author year, arXiv id, figure or section
    criterion: str
    kind: Kind
    effects: Callable[[Any, Any], ArrayLike | None]  # (record, config) ↦ [n]; None: the record can't tell
    above: float  # the interval must lie above this
    below: float  # and below this


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim, judged."""

    claim: Claim
    effects: tuple[float, ...]  # one for each initialisation
    effect: float | None  # their mean; of a theory the worst
    interval: tuple[float, float] | None  # of the mean, at the confidence that is left after Holm's correction at 95 %
    p: float | None  # two-sided, before the correction
    verdict: str


def claim(
    id: str, *, kind: Kind = "claim", source: str, statement: str, above: float = -math.inf, below: float = math.inf
) -> Callable[[Callable], Claim]:
    """Make a `Claim` of a function (record, config) ↦ effects [n] or None.

    Args:
      above, below: what the mean effect is to lie between. For a direction give `above=0` alone; a number only where the paper
        prints one.
    """
    if above == -math.inf and below == math.inf:
        raise ValueError(f"claim {id!r}: give above= or below=, or it can't fail")
    if above >= below:
        raise ValueError(f"claim {id!r}: nothing lies above {above} and below {below}")

    def make(effects: Callable) -> Claim:
        if not effects.__doc__:
            raise ValueError(f"claim {id!r}: its function needs a docstring, which is the criterion: what the effect is")
        bounds = [f"above {above:g}"] * (above > -math.inf) + [f"below {below:g}"] * (below < math.inf)
        rule = "each" if kind == "theory" else "95 % interval of the mean"
        criterion = f"{' '.join(inspect.cleandoc(effects.__doc__).split())} Holds if {rule} is {' and '.join(bounds)}."
        return Claim(id, statement, source, criterion, kind, effects, above, below)

    return make


def judge(claims: Sequence[Claim], record: Any, config: Any, confidence: float = 0.95) -> list[Finding]:
    """Each claim's verdict, in their order. Those of kind "claim" share one error rate of 1 − confidence (Holm 1979)."""
    found = [_measure(one, one.effects(record, config)) for one in claims]
    alphas = dict(zip((f.claim.id for f in found), [1 - confidence] * len(found), strict=True)) | _holm(found, 1 - confidence)
    return [_decide(finding, alphas[finding.claim.id]) for finding in found]


def _measure(claim: Claim, effects: ArrayLike | None) -> Finding:
    """Effects, their mean and its p, with no verdict yet."""
    if effects is None:
        return Finding(claim, (), None, None, None, NOT_TESTED)
    values = np.atleast_1d(np.asarray(effects, np.float64))
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(
            f"claim {claim.id!r}: effects must be one finite number for each initialisation, [n], but are {values}: say what "
            "the effect of a run that diverged, or never got there, is"
        )
    if claim.kind == "theory":
        inside = claim.above < values.min() and values.max() < claim.below
        worst = float(values.min() if values.min() <= claim.above else values.max())
        return Finding(claim, tuple(values), worst, None, None, REPRODUCED if inside else REFUTED)
    p = p_value(values, claim.above, claim.below) if len(values) >= FEWEST else None
    return Finding(claim, tuple(values), float(values.mean()), None, p, UNDECIDED)


def _holm(found: Sequence[Finding], alpha: float) -> dict[str, float]:
    """The level at which each finding of kind "claim" is tested: α/m for the least p, α/(m − 1) for the next, …; from the first
    that is not significant on, all have its level."""
    tested = sorted((f for f in found if f.claim.kind == "claim" and f.p is not None), key=lambda f: f.p or 0.0)
    levels: dict[str, float] = {}
    for i, finding in enumerate(tested):
        before = tested[i - 1] if i else None
        stopped = before is not None and (before.p or 0.0) > levels[before.claim.id]
        levels[finding.claim.id] = levels[before.claim.id] if before is not None and stopped else alpha / (len(tested) - i)
    return levels


def _decide(finding: Finding, alpha: float) -> Finding:
    if finding.p is None:
        return finding
    low, high = interval(np.array(finding.effects), 1 - alpha)
    return dataclasses.replace(
        finding, interval=(low, high), verdict=verdict(low, high, finding.claim.above, finding.claim.below)
    )


def verdict(low: float, high: float, above: float, below: float) -> str:
    """Where an interval [low, high] lies against the open band (above, below): in it, off it, or across one of its ends."""
    if above < low and high < below:
        return REPRODUCED
    return REFUTED if high < above or low > below else UNDECIDED


def interval(effects: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """A two-sided interval for the mean of effects [n], n ≥ 4.

    Student's t below n = 16, and the bootstrap over initialisations from there on (BCa, 5,000 resamples of a fixed seed). With
    fewer the bootstrap's intervals are too short: of normal effects of mean 0, its 95 % intervals miss 12 % of the time at
    n = 8, 10 % at n = 10 and 7 % at n = 16.

    Source: B. Efron 1987, J. Am. Stat. Assoc. 82; Student 1908.
    """
    if np.ptp(effects) == 0:
        return float(effects[0]), float(effects[0])
    if len(effects) < MANY:
        low, high = stats.t.interval(confidence, len(effects) - 1, effects.mean(), stats.sem(effects))
    else:
        low, high = _bca(tuple(effects.tolist()), confidence)
    return float(low), float(high)


@functools.cache
def _resampled(effects: tuple[float, ...]):
    return stats.bootstrap((effects,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0))


def _bca(effects: tuple[float, ...], confidence: float) -> tuple[float, float]:
    known = _resampled(effects)
    found = stats.bootstrap(
        (effects,), np.mean, n_resamples=0, method="BCa", confidence_level=confidence, bootstrap_result=known
    )
    return found.confidence_interval


def p_value(effects: np.ndarray, above: float, below: float) -> float:
    """The least level at which the interval at 1 − level leaves the ends of the band on one side: reproduced, or refuted."""
    decided = lambda level: verdict(*interval(effects, 1 - level), above, below) != UNDECIDED  # noqa: E731
    low, high = 1e-6, 1 - 1e-6  # of the logarithm's bisection: intervals shrink as the level grows
    if decided(low):
        return low
    if not decided(high):
        return 1.0
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def power(effect: float, spread: float, n: int, confidence: float = 0.95, draws: int = 2000) -> float:
    """The probability that n normal effects of this mean and standard deviation are told "reproduced" of above = 0."""
    rng = np.random.default_rng(0)
    told = (verdict(*interval(rng.normal(effect, spread, n), confidence), 0.0, math.inf) for _ in range(draws))
    return sum(x == REPRODUCED for x in told) / draws
