"""The README's examples run: at small sizes by default, as written under -m slow."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
SMALLER = {"digits()": "digits(50)", "(64, 64)": "(6, 6)", "2000, every=10": "40, every=10", "500, every": "20, every",
           "split(key, 64)": "split(key, 3)", "50, 16)": "50, 2)"}  # fmt: skip


def ran(smaller: bool) -> dict:
    names: dict = {}
    with jax.debug_key_reuse(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in BLOCKS:
            for long, short in SMALLER.items() if smaller else ():
                block = block.replace(long, short)
            exec(compile(block, "README.md", "exec"), names)
    return names


def test_examples():
    assert len(BLOCKS) == 4
    assert all(any(long in block for block in BLOCKS) for long in SMALLER)
    names = ran(smaller=True)
    assert names["record"]["sharpness"].shape == (3, 2, 2)
    assert np.array_equal(names["status"], [[0, 1]] * 3)  # 0.05 trains, 50 diverges
    assert names["eigs"].values.shape == (5,)
    # a linear model with ten outputs: each eigenvalue of the inputs' second moments, tenfold, times 2 / 10
    inputs = np.asarray(names["train"][0], np.float64)
    augmented = np.c_[inputs, np.ones(len(inputs))]
    top = 0.2 * np.linalg.eigvalsh(augmented.T @ augmented / len(inputs))[-1]
    np.testing.assert_allclose(names["eigs"].values, top, rtol=1e-5)
    dense = jax.jit(names["cv"].dense(names["cv"].hessian(names["loss"])))(names["params"], names["batch"])
    true = np.linalg.eigvalsh(np.float64(dense))[::-1]
    assert names["ends"].converged
    np.testing.assert_allclose(names["ends"].values, true[[0, 1, 2, -2, -1]], rtol=0, atol=2e-5 * true[0])
    ggn = jax.jit(names["cv"].dense(names["cv"].ggn(names["model"].apply, names["lj"].losses.square)))
    trace = np.trace(np.float64(ggn(names["params"], names["batch"])))
    assert abs(names["gauss_newton"].value - trace) < 4 * names["gauss_newton"].error < 0.1 * trace
    assert np.isfinite(names["density"].value).all()
    assert names["density"].value.max() > 0


@pytest.mark.slow
def test_examples_as_written():
    names = ran(smaller=False)
    assert names["record"]["loss"].shape == names["record"]["sharpness"].shape == (64, 16, 50)
    assert names["final"].step == 2000
