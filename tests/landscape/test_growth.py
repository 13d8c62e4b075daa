"""Growth exponents where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape_jax.landscape import multiscale
from landscape_jax.theory import multiscale as toys

RADII = np.geomspace(1e-4, 1e2, 61)


def profile(toy, radii=RADII, shift=0.0):
    """Of toy(x − shift), about its line minimum, started at x = 0.3."""

    def loss(params, batch):
        return toy(params["x"] - shift) + params["y"] ** 2 + batch

    def measured(params, v, radii):
        at = multiscale.line_minimum(loss, params, v, jnp.array(0.5))
        return at, multiscale.profile(loss, at, v, radii, jnp.array(0.5))

    params, v = {"x": jnp.array(0.3), "y": jnp.array(1.0)}, {"x": jnp.array(1.0), "y": jnp.array(0.0)}
    return jax.device_get(jax.jit(measured)(params, v, jnp.asarray(radii)))


@pytest.mark.parametrize("p", [1.2, 2.0, 3.0])
def test_powers_have_their_exponent(p, x64):
    at, grown = profile(toys.power(p), shift=-0.7)
    assert at["x"] == pytest.approx(-0.7, abs=1e-9 if p <= 2 else 1e-4)
    seen = grown.radii > 1e-2
    np.testing.assert_allclose(grown.exponent[seen], p, rtol=1e-2)
    assert multiscale.fitted_exponent(grown.radii, grown.rise, 1e-1, 1e1) == pytest.approx(p, rel=1e-3)
    assert multiscale.separate_scales(grown.exponent[seen]) == 0


def test_odd_parts_do_not_count(x64):
    _, grown = profile(lambda x: toys.log_cosh(x) + 0.2 * x**3 * jnp.exp(-(x**2)), np.geomspace(1e-2, 5, 100))
    r = grown.radii
    truth = r * np.tanh(r) / np.log(np.cosh(r))
    np.testing.assert_allclose(grown.rise, np.log(np.cosh(r)), rtol=1e-9)
    np.testing.assert_allclose(grown.exponent[1:-1], truth[1:-1], atol=2e-3)


def test_scales_are_counted(x64):
    cases = (((1.0,), (1.0,), 0), ((1.0, 1e2), (1.0, 0.1), 1), ((1.0, 1e2, 1e4), (1.0, 0.1, 0.01), 2))
    for magnitudes, weights, count in cases:
        x, rho = jnp.array(magnitudes), jnp.array(weights)
        _, grown = profile(lambda t, x=x, rho=rho: toys.saturating_loss(t, x, rho), np.geomspace(1e-6, 10, 71))
        seen = np.isfinite(grown.exponent)
        assert multiscale.separate_scales(grown.exponent[seen]) == count


def test_noise_below_the_threshold_is_no_scale():
    rng = np.random.default_rng(0)
    falling = np.linspace(2, 1, 60)
    assert multiscale.separate_scales(falling + 1e-4 * rng.standard_normal(60)) == 0
    assert multiscale.separate_scales(falling + 0.3 * np.sin(np.arange(60) / 3)) == 3


def test_what_rounding_takes_is_told_and_not_made_up():
    _, grown = profile(toys.log_cosh)  # in float32, on top of a loss of 1.5
    assert np.isnan(grown.exponent[grown.radii < 1e-2]).all()
    np.testing.assert_allclose(grown.exponent[(grown.radii > 0.1) & (grown.radii < 0.2)], 2.0, atol=0.02)


def test_averages_weigh_by_the_rise():
    radii = np.broadcast_to(RADII, (2, 61))
    both = multiscale.Profile(radii, np.stack([RADII**2, 3e4 * RADII**4]), np.broadcast_to([[2.0], [4.0]], (2, 61)))
    mean = multiscale.averaged(both)
    slopes = np.gradient(np.log(mean.rise), np.log(RADII))
    np.testing.assert_allclose(mean.exponent, slopes, atol=1e-4)
    assert 2 < mean.exponent[30] < 4


def test_wrong_arguments_are_answered():
    with pytest.raises(ValueError, match="0 radii"):
        multiscale.fitted_exponent(RADII, RADII, 1e3, 1e4)
    with pytest.raises(ValueError, match="width=99"):
        multiscale.separate_scales(RADII, width=99)
    with pytest.raises(ValueError, match="at least two"):
        multiscale.profile(lambda p, b: p, jnp.array(0.0), jnp.array(1.0), jnp.array([1.0]), None)
    with pytest.raises(ValueError, match="num=2"):
        multiscale.line_minimum(lambda p, b: p, jnp.array(0.0), jnp.array(1.0), None, num=2)
