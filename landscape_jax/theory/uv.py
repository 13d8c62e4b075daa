"""The uv model: the smallest network that catapults, and with a target the smallest that trains at the edge of stability.

    f = uᵀv x/√w,  x = 1,   L = ½ (f − y)²,   z = f − y,   λ = (|u|² + |v|²)/w

w is the width, u and v [w] the two layers. λ is both the tangent kernel and, as ∂²L/∂u∂v has no diagonal, the *trace* of the
Hessian; its largest eigenvalue is another thing (`top_eigenvalue`), and the two put their thresholds at different steps.
Gradient descent, u' = u − η z v/√w and v' = v − η z u/√w, closes on f and λ alone, whatever w is:

    z' = z (1 − ηλ + η² z f/w)          λ' = λ − 4 η z f/w + η² z² λ/w

Without a target (y = 0), κ = ηλ and X = η² f²/w make one map of two numbers, X' = X (1 − κ + X)², κ' = κ + X (κ − 4), in
which width is left only in where it starts: with η = k/λ₀, κ₀ = k and X₀ = k² a, a = f₀²/(w λ₀²). Since |f₀| ≤ √w λ₀/2, a ≤ ¼.
Then κ can grow only from κ > 4, and above 4 it does for ever (X > 0); below, κ never grows and X ≤ κ²/4 stays bounded.

All functions are plain arithmetic, elementwise over arrays of NumPy or JAX in the dtype these come in.

Source: D. Kalra and M. Barkeshli 2023, arXiv 2302.12250 (y = 0); D. Kalra, T. He and M. Barkeshli 2023, arXiv 2311.02076
(y ≠ 0). The closed forms here are derived from the two maps above.
"""

from jax.typing import ArrayLike

TRACE_THRESHOLD = MAX_THRESHOLD = 4.0
"""k above which the trace grows, and k above which training diverges: the same 4, at every width."""

TOP_THRESHOLD_WIDE = 2.5
"""k above which the largest eigenvalue passes its initial value as w → ∞: (4 − k) < 3 (k − 2), the first step's condition."""


def output(u, v):
    """f = uᵀv/√w, from u and v [..., w].

    >>> float(lj.theory.uv.output(jnp.ones(4), jnp.ones(4)))
    2.0
    """
    return (u * v).sum(axis=-1) / u.shape[-1] ** 0.5


def trace(u, v):
    """λ = (|u|² + |v|²)/w, from u and v [..., w].

    >>> float(lj.theory.uv.trace(jnp.ones(4), jnp.ones(4)))
    2.0
    """
    return (u * u + v * v).sum(axis=-1) / u.shape[-1]


def step(f, lam, rate, width, target: ArrayLike = 0.0):
    """(f, λ) after one step of gradient descent with rate η, exactly.

    >>> f, lam = lj.theory.uv.step(1.0, 2.0, rate=0.5, width=4)
    >>> float(f), float(lam)
    (0.0625, 1.625)
    """
    z = f - target
    gain = 1 - rate * lam + rate**2 * z * f / width
    return target + z * gain, lam - 4 * rate * z * f / width + rate**2 * z**2 * lam / width


def scaled_step(x, kappa):
    """(X, κ) after one step without a target: X = η² f²/w, κ = ηλ; the loss is ½ w X/η².

    >>> x, kappa = lj.theory.uv.scaled_step(0.1, 1.0)
    >>> round(float(x), 4), round(float(kappa), 4)
    (0.001, 0.7)
    """
    return x * (1 - kappa + x) ** 2, kappa + x * (kappa - 4)


def asymmetry(f, lam, width):
    """a = f²/(w λ²), in [0, ¼]: how far the output is from zero, and all that width changes in the first steps.

    >>> lj.theory.uv.asymmetry(1.0, 2.0, width=4)
    0.0625
    """
    return f**2 / (width * lam**2)


def top_eigenvalue(f, lam, width, target=0.0):
    """The largest Hessian eigenvalue of the loss: λ (1 + √(1 + 4 z (2f + z)/(w λ²)))/2, and 12 f² under the root for y = 0.

    The Hessian maps the span of (v, u) and (u, v) to itself, with trace λ and determinant −z (2f + z)/w there; its other
    eigenvalues are ±z/√w, and by |f| ≤ √w λ/2 no larger than this one.

    >>> float(lj.theory.uv.top_eigenvalue(0.0, 2.0, width=4))  # λ, where f = 0
    2.0
    """
    z = f - target
    return lam / 2 * (1 + (1 + 4 * z * (2 * f + z) / (width * lam**2)) ** 0.5)


def loss_threshold(a):
    """k above which the first step raises the loss: (1 − √(1 − 8a))/(2a) = 2 (1 + 2a + …), for 0 < a ≤ ⅛; NaN beyond.

    It solves 1 − k + k² a = −1. A step of 2 < k < this one is past 2/λ₀, and yet loss and trace fall: the window opens
    with f₀²/w and closes for a zero output. For a > ⅛ no step in [2, 4] raises the loss at once; later ones may.

    >>> round(float(lj.theory.uv.loss_threshold(0.125)), 3)
    4.0
    """
    return (1 - (1 - 8 * a) ** 0.5) / (2 * a)


def minimal_trace(target, width):
    """2|y|/√w: the least λ with which f = y, by |uᵀv| ≤ (|u|² + |v|²)/2. Gradient descent can rest only if η λ_min < 2.

    >>> float(lj.theory.uv.minimal_trace(3.0, width=4))
    3.0
    """
    return 2 * abs(target) / width**0.5
