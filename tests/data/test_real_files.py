"""The published files themselves, where LANDSCAPE_JAX_DATA has them; read again here byte by byte, and known by their facts."""

import os
from pathlib import Path

import numpy as np
import pytest
from original_formats import read_cifar10, read_idx

import landscape_jax as lj

FOLDER = Path(os.environ.get("LANDSCAPE_JAX_DATA", "/nowhere"))


def needs(name):
    return pytest.mark.skipif(not (FOLDER / name).is_file(), reason=f"LANDSCAPE_JAX_DATA has no {name}")


@pytest.fixture(scope="module")
def mnist():
    return [(np.asarray(x), np.asarray(y)) for x, y in lj.data.mnist(one_hot=False)]


@pytest.fixture(scope="module")
def cifar10():
    return [(np.asarray(x), np.asarray(y)) for x, y in lj.data.cifar10(5000, 1000, one_hot=False)]


@needs("mnist/train-images-idx3-ubyte.gz")
def test_mnist_is_the_files(mnist):
    for (x, y), part, n in zip(mnist, ("train", "t10k"), (60_000, 10_000), strict=True):
        images = read_idx(FOLDER / "mnist" / f"{part}-images-idx3-ubyte.gz")
        assert images.shape == (n, 28, 28)
        assert x.shape == (n, 28, 28, 1)
        np.testing.assert_array_equal(x[..., 0], images.astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(y, read_idx(FOLDER / "mnist" / f"{part}-labels-idx1-ubyte.gz"))


@needs("mnist/train-images-idx3-ubyte.gz")
def test_mnist_has_its_published_facts(mnist):
    (x, y), (_, y_test) = mnist
    assert y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_allclose((x.mean(dtype=np.float64), x.std(dtype=np.float64)), (0.1307, 0.3081), atol=5e-5)


@needs("cifar-10-batches-bin/data_batch_1.bin")
def test_cifar10_is_the_files(cifar10):
    for (x, y), name in zip(cifar10, ("data_batch_1.bin", "test_batch.bin"), strict=True):
        images, labels = read_cifar10(FOLDER / "cifar-10-batches-bin" / name, len(x))
        np.testing.assert_array_equal(x, images.astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(y, labels)


@needs("cifar-10-batches-bin/data_batch_1.bin")
def test_cifar10_has_its_published_facts(cifar10):
    (x, y), (_, y_test) = cifar10
    assert y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert y_test[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(y).tolist() == [505, 460, 519, 486, 519, 488, 519, 486, 520, 498]
    # of a tenth of the training set: near the constants of the whole, and in the order red, green, blue
    np.testing.assert_allclose(x.mean((0, 1, 2), np.float64), (0.49140, 0.48216, 0.44653), atol=0.005)
    np.testing.assert_allclose(x.std((0, 1, 2), np.float64), (0.24703, 0.24349, 0.26159), atol=0.005)


@needs("cifar-10-batches-bin/data_batch_1.bin")
def test_cifar10_names_what_is_missing(cifar10, monkeypatch, tmp_path):
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / project)
    source = lj.data.cifar.CIFAR10._replace(mirrors=("http://127.0.0.1:9/",))
    monkeypatch.setattr("landscape_jax.data.cifar.CIFAR10", source)
    if not (FOLDER / "cifar-10-batches-bin" / "data_batch_2.bin").is_file():
        with pytest.raises(FileNotFoundError, match="data_batch_2.bin  md5 5ea93a67294ea407fff1d09f752e9692") as raised:
            lj.data.cifar10(10_001, 0)
        assert "data_batch_1.bin" not in str(raised.value)
    if (FOLDER / "cifar-10-batches-bin" / "test_batch.bin").stat().st_size == 3_073_000:
        with pytest.raises(ValueError, match=r"test_batch.bin holds 1000 of the 10000 examples"):
            lj.data.cifar10(1)
