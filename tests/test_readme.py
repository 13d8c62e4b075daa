"""The README's examples run: at small sizes by default, as written under -m slow."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
SMALLER = {
    "digits()": "digits(50)",
    "(64, 64)": "(6, 6)",
    "2000, every=10": "40, every=10",
    "500, every": "20, every",
    "split(key, 64)": "split(key, 3)",
    "50, 16)": "50, 2)",
}


def ran(smaller: bool) -> list[dict]:
    """The names after each example."""
    names: dict = {}
    after = []
    with jax.debug_key_reuse(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in BLOCKS:
            for long, short in SMALLER.items() if smaller else ():
                block = block.replace(long, short)
            exec(compile(block, "README.md", "exec"), names)
            after.append(dict(names))
    return after


@pytest.fixture(autouse=True)
def in_scratch(tmp_path, monkeypatch):
    """The examples write where they run."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_examples():
    assert len(BLOCKS) == 9
    assert all(any(long in block for block in BLOCKS) for long in SMALLER)
    _, swept, own, measured, sliced, lasting, warm, split, others = ran(smaller=True)
    assert Path("sharpness.png").read_bytes().startswith(b"\x89PNG")
    assert swept["record"]["sharpness"].shape == (3, 2, 2)
    assert np.array_equal(swept["status"], [[0, 1]] * 3)  # 0.05 trains, 50 diverges
    # a linear model with ten outputs: each eigenvalue of the inputs' second moments, tenfold, times 2 / 10
    inputs = np.asarray(own["train"][0], np.float64)
    augmented = np.c_[inputs, np.ones(len(inputs))]
    top = 0.2 * np.linalg.eigvalsh(augmented.T @ augmented / len(inputs))[-1]
    assert own["eigs"].values.shape == (5,)
    np.testing.assert_allclose(own["eigs"].values, top, rtol=1e-5)

    cv, params, batch = measured["cv"], measured["params"], measured["batch"]
    true = np.linalg.eigvalsh(np.float64(jax.jit(cv.dense(cv.hessian(measured["loss"])))(params, batch)))[::-1]
    assert measured["ends"].converged
    np.testing.assert_allclose(measured["ends"].values, true[[0, 1, 2, -2, -1]], rtol=0, atol=2e-5 * true[0])
    ggn = jax.jit(cv.dense(cv.ggn(measured["model"].apply, measured["lj"].losses.square)))(params, batch)
    trace, estimate = np.trace(np.float64(ggn)), measured["gauss_newton"]
    assert abs(estimate.value - trace) < 4 * estimate.error < 0.1 * trace
    assert 0 < measured["density"].value.max() < np.inf

    centre = measured["loss"](measured["params"], measured["batch"])
    np.testing.assert_allclose(sliced["losses_at"][10, 10], centre, rtol=1e-6)
    assert sliced["losses_at"].shape == (21, 21)

    assert lasting["record"]["loss"].shape == (4, 4, 20)
    assert lasting["table"].dims == ("learning_rate",)
    assert lasting["fastest"].shape == (4, 20)
    assert (lasting["folder"] / "200" / "manifest.json").is_file()
    sharpness = warm["record"]["sharpness"]
    assert sharpness.shape == (4, 4, 4)  # at the first look all rates are still where they parted
    assert (np.ptp(sharpness, axis=1) > 0).tolist() == [[False, True, True, True]] * 4
    assert len(split["theta"]["layer0"]["kernel"].sharding.device_set) == 8
    assert split["final"].params["layer0"]["kernel"].sharding == split["theta"]["layer0"]["kernel"].sharding
    assert np.isfinite(split["record"]["loss"]).all()

    assert others["record"]["sharpness"].shape == (3,)
    assert np.isfinite(others["record"]["sharpness"]).all()


@pytest.mark.slow
def test_examples_as_written():
    first, swept, *_ = ran(smaller=False)
    assert swept["record"]["loss"].shape == swept["record"]["sharpness"].shape == (64, 16, 50)
    assert first["final"].step == 2000
