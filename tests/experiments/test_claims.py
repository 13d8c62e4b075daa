"""The judge, on effects whose truth is known."""

import json
import math

import numpy as np
import pytest

from experiments import claims
from experiments.claims import NOT_TESTED, REFUTED, REPRODUCED, UNDECIDED, claim, judge


def made(effects, name="one", **bounds):
    def function(record, config):
        """The effect."""
        return effects

    kind = bounds.pop("kind", "claim")
    return claim(name, kind=kind, source="here", statement="It holds.", **(bounds or {"above": 0.0}))(function)


def told(*asked, **options):
    return [finding.verdict for finding in judge(asked, {}, None, **options)]


def test_each_verdict():
    spread = np.linspace(-0.1, 0.1, 10)
    assert told(made(1 + spread)) == [REPRODUCED]
    assert told(made(-1 + spread)) == [REFUTED]
    assert told(made(0.01 + spread)) == [UNDECIDED]
    assert told(made(None)) == [NOT_TESTED]
    assert told(made([1.0, 1.0, 1.0])) == [UNDECIDED]  # three initialisations have no interval
    assert told(made(1 + spread, above=0.5, below=1.5)) == [REPRODUCED]
    assert told(made(2 + spread, above=0.5, below=1.5)) == [REFUTED]
    assert told(made(1.5 + spread, above=0.5, below=1.5)) == [UNDECIDED]
    assert told(made([1.0] * 8)) == [REPRODUCED]


def test_a_theory_is_held_against_each_number():
    assert told(made([0.1, 0.2], kind="theory", below=0.3)) == [REPRODUCED]
    finding = judge([made([0.1, 0.4], kind="theory", below=0.3)], {}, None)[0]
    assert finding.verdict == REFUTED
    assert finding.effect == 0.4


@pytest.mark.parametrize(
    ("n", "draw", "most"),
    [
        (5, lambda rng, n: rng.normal(0, 1, n), 0.06),
        (8, lambda rng, n: rng.normal(0, 1, n), 0.07),
        (12, lambda rng, n: rng.normal(0, 1, n), 0.07),
        (12, lambda rng, n: rng.exponential(1, n) - 1, 0.12),  # skewed: Student's intervals are short on one side
        (16, lambda rng, n: rng.normal(0, 1, n), 0.09),  # the bootstrap's
        (16, lambda rng, n: rng.exponential(1, n) - 1, 0.13),
    ],
)
def test_error_rates_where_nothing_is_there(n, draw, most):
    rng = np.random.default_rng(1)
    decided = [claims.verdict(*claims.interval(draw(rng, n)), 0.0, math.inf) != UNDECIDED for _ in range(600)]
    rate = np.mean(decided)
    print(f"n = {n}: {rate:.3f} of 600 draws decided, nominal 0.05")
    assert rate < most


def test_many_claims_share_one_error_rate():
    rng = np.random.default_rng(2)

    def any_decided(correct: bool) -> bool:
        asked = [made(rng.normal(0, 1, 6), name=str(i)) for i in range(10)]
        return any(x != UNDECIDED for x in (told(*asked) if correct else [told(one)[0] for one in asked]))

    alone = np.mean([any_decided(False) for _ in range(40)])
    together = np.mean([any_decided(True) for _ in range(200)])
    assert alone > 0.2
    assert together < 0.1


def test_holm_takes_the_least_first():
    strong, weak, none = (made(m + np.linspace(-1, 1, 6), name=str(m)) for m in (5.0, 0.9, 0.0))
    alone = [told(one)[0] for one in (strong, weak, none)]
    assert alone == [REPRODUCED, REPRODUCED, UNDECIDED]
    assert told(weak, none, strong) == [UNDECIDED, UNDECIDED, REPRODUCED]  # 0.9 is significant at 5 %, not at 2.5 %
    others = [made([0.1] * 5 + [-0.1] * 5, name=f"e{i}", kind="exploratory") for i in range(9)]
    assert told(strong, *others)[0] == REPRODUCED


def test_p_agrees_with_students_test():
    from scipy import stats

    effects = np.array([0.3, 1.1, 0.2, 0.9, -0.1])
    assert claims.p_value(effects, 0.0, math.inf) == pytest.approx(stats.ttest_1samp(effects, 0.0).pvalue, rel=1e-3)


def test_power_grows_with_n():
    few, many = claims.power(1.0, 1.0, 5, draws=300), claims.power(1.0, 1.0, 16, draws=300)
    assert few < 0.6
    assert many > 0.9


@pytest.mark.parametrize("bad", [[1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_effects_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=r"one finite number for each initialisation.*diverged"):
        told(made(bad))


def test_a_claim_that_cannot_fail_is_refused():
    with pytest.raises(ValueError, match="can't fail"):
        claim("x", source="here", statement="It holds.")
    with pytest.raises(ValueError, match="nothing lies above 1 and below 0"):
        claim("x", source="here", statement="It holds.", above=1, below=0)
    with pytest.raises(ValueError, match="docstring"):
        claim("x", source="here", statement="It holds.", above=1)(lambda record, config: None)


def test_the_criterion_says_what_the_judge_does():
    assert made([1.0]).criterion == "The effect. Holds if 95 % interval of the mean is above 0."
    assert json.dumps(judge([made(np.ones(4))], {}, None)[0].effects) == "[1.0, 1.0, 1.0, 1.0]"
