"""The largest curvature at which each optimizer is stable on a quadratic ½ a x².

With a constant rate and, for adaptive optimizers, a preconditioner P that changes slowly: `a` is then an eigenvalue of
P⁻¹ H, and of P^-½ H P^-½ as well (`curvature.preconditioned`). Above its threshold the iterates grow, below it they shrink.

The derivation is the same for all. Momentum makes the step linear in (x_t, x_{t−1}); stability asks that both roots z of
its characteristic polynomial lie in the unit disc, and a growing `a` lets one of them out at z = −1:

    polyak     x' = x − η a x + β (x − x₋)                z² − (1 + β − ηa) z + β = 0              2 (1 + β) = η a
    nesterov   x' = y − η a y,  y = x + β (x − x₋)        z² − (1 + β)(1 − ηa) z + β (1 − ηa) = 0   2 (1 + β) = η a (1 + 2β)

and averaging the gradients, m' = β m + (1 − β) g in place of β m + g, divides the rate by 1/(1 − β).

Source: J. Cohen et al. 2021, arXiv 2103.00065, App. B; J. Cohen et al. 2022, arXiv 2207.14484, §2.
"""


def gradient_descent(rate):
    """2/η: `optax.sgd(rate)`, and RMSProp and Adagrad with their preconditioner.

    >>> lj.theory.stability.gradient_descent(0.1)
    20.0
    """
    return 2 / rate


def polyak(rate, momentum):
    """2 (1 + β)/η: heavy-ball momentum, `optax.sgd(rate, momentum)`.

    >>> round(lj.theory.stability.polyak(0.1, momentum=0.9), 3)
    38.0
    """
    return 2 * (1 + momentum) / rate


def nesterov(rate, momentum):
    """2 (1 + β)/((1 + 2β) η): `optax.sgd(rate, momentum, nesterov=True)`.

    >>> round(lj.theory.stability.nesterov(0.1, momentum=0.9), 3)
    13.571
    """
    return 2 * (1 + momentum) / ((1 + 2 * momentum) * rate)


def adam(rate, b1=0.9):
    """2 (1 + β₁)/((1 − β₁) η), 38/η at β₁ = 0.9: averaged gradients; Adam, AdamW, AMSGrad, AdaBelief.

    >>> round(lj.theory.stability.adam(0.1), 3)
    380.0
    """
    return polyak(rate, b1) / (1 - b1)


def nadam(rate, b1=0.9):
    """2 (1 + β₁)/((1 − β₁)(1 + 2β₁) η): averaged gradients with Nesterov's look-ahead, `optax.nadam`.

    >>> round(lj.theory.stability.nadam(0.1), 3)
    135.714
    """
    return nesterov(rate, b1) / (1 - b1)
