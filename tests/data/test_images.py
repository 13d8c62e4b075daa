"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 from small files of the same formats."""

import gzip

import jax.numpy as jnp
import numpy as np
import pytest
from original_formats import idx_bytes, write_cifar, write_cifar10, write_cifar100, write_idx

import landscape_jax as lj

SETS = {  # function, folder, writer, files of train and test, classes
    "mnist": (lj.data.mnist, "mnist", write_idx, ("train", "t10k"), 10),
    "fashion_mnist": (lj.data.fashion_mnist, "fashion-mnist", write_idx, ("train", "t10k"), 10),
    "cifar10": (lj.data.cifar10, "cifar-10-batches-bin", write_cifar10, ("data_batch_1.bin", "test_batch.bin"), 10),
    "cifar100": (lj.data.cifar100, "cifar-100-binary", write_cifar100, ("train.bin", "test.bin"), 100),
}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Own folder and cache under tmp_path, and no mirror that answers."""
    monkeypatch.setenv("LANDSCAPE_JAX_DATA", str(tmp_path / "own"))
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    for module, name in [("idx", "MNIST"), ("idx", "FASHION_MNIST"), ("cifar", "CIFAR10"), ("cifar", "CIFAR100")]:
        path = f"landscape_jax.data.{module}.{name}"
        source = getattr(getattr(lj.data, module), name)
        monkeypatch.setattr(path, source._replace(mirrors=("http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/")))
    return tmp_path


@pytest.fixture(params=SETS)
def written(request, offline):
    read, folder, write, parts, num_classes = SETS[request.param]
    files = write(offline / "own" / folder)
    return read, [files[part] for part in parts], num_classes


def test_pixels_and_targets(written):
    read, parts, num_classes = written
    for (x, y), (images, labels) in zip(read(12, 5), parts, strict=True):
        n = len(x)
        assert x.dtype == y.dtype == jnp.float32
        want = images[:n].reshape(n, *images.shape[1:3], -1).astype(np.float32) / np.float32(255)  # [n, h, w, channels]
        np.testing.assert_array_equal(x, want)
        np.testing.assert_array_equal(y, np.eye(num_classes)[labels[:n]])
    assert (len(read(12, 5)[0][0]), len(read(12, 5)[1][0])) == (12, 5)


def test_integer_targets(written):
    read, parts, _ = written
    for (_, y), (_, labels) in zip(read(12, 5, one_hot=False), parts, strict=True):
        assert y.dtype == jnp.int32
        np.testing.assert_array_equal(y, labels[: len(y)])


def test_no_test_examples_need_no_test_files(written, offline):
    read, parts, num_classes = written
    for path in offline.glob("own/*/t*"):
        if "train" not in path.name:
            path.unlink()
    (x, _), (x_test, y_test) = read(3, 0)
    assert x_test.shape == (0, *x.shape[1:])
    assert y_test.shape == (0, num_classes)


@pytest.mark.parametrize("scale", [lj.data.centred, lj.data.per_pixel, lj.data.per_channel, lj.data.per_sample])
def test_scales_use_the_training_examples_that_were_asked_for(written, scale):
    read, parts, _ = written
    (x, _), (x_test, _) = read(12, 5)
    scaled, scaled_test = (part[0] for part in read(12, 5, scale=scale))
    np.testing.assert_array_equal(scaled, scale(np.asarray(x), np.asarray(x)))
    np.testing.assert_array_equal(scaled_test, scale(np.asarray(x), np.asarray(x_test)))
    assert scaled.dtype == jnp.float32


def test_float64_where_jax_is_set_to_it(x64, written):
    read, parts, _ = written
    (x, y), _ = read(4, 0, scale=lj.data.per_sample)
    assert x.dtype == y.dtype == jnp.float64
    np.testing.assert_allclose(np.std(x, axis=(1, 2, 3)), 1, rtol=1e-14)


def test_the_cache_is_used_without_the_variable(offline, monkeypatch):
    write_idx(offline / "cache" / "landscape_jax" / "mnist")
    monkeypatch.delenv("LANDSCAPE_JAX_DATA")
    assert lj.data.mnist(30, 12)[0][0].shape == (30, 28, 28, 1)


def test_five_batches_in_their_order(offline, monkeypatch):
    """Seven images a file in place of 10,000."""
    monkeypatch.setattr("landscape_jax.data.cifar.BATCH", 7)
    sizes = {f"data_batch_{i}.bin": 7 for i in range(1, 6)}
    files = write_cifar(offline / "own" / "cifar-10-batches-bin", sizes, 1, 10)
    want = np.concatenate([images for images, _ in files.values()])
    for n in (1, 7, 8, 20, 35):
        np.testing.assert_array_equal(np.round(lj.data.cifar10(n, 0)[0][0] * 255), want[:n])


# ── files that will not do ────────────────────────────────────────────────────────────────────────────────────────────

NOISE = np.random.default_rng(1).integers(0, 10, (30, 28, 28), np.uint8)


def packed(items, **header):
    return gzip.compress(idx_bytes(items, **header), 1)


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
SOUND = gzip.compress(idx_bytes(NOISE), 0)  # stored, so that a cut falls among the pixels
DAMAGED = bytearray(packed(NOISE))
DAMAGED[2000:2100] = b"\xff" * 100
FLIPPED = bytearray(SOUND)
FLIPPED[3000] ^= 1  # one pixel

BAD_IDX = {  # file, content, what the message says
    "wrong magic number": (IMAGES, packed(NOISE, magic=2049), r"train-images.*magic number 2049, not 2051.*delete it"),
    "labels in place of images": (IMAGES, packed(NOISE[:, 0, 0]), r"magic number 2049, not 2051"),
    "images in place of labels": (LABELS, packed(NOISE), r"train-labels.*magic number 2051, not 2049"),
    "other sides": (IMAGES, packed(NOISE[:, :8, :8]), r"items of shape \(8, 8\), not \(28, 28\).*original file"),
    "an empty file": (IMAGES, b"", r"ends within its header, after 0 bytes"),
    "half a header": (IMAGES, gzip.compress(b"\0\0\x08\x03\0"), r"ends within its header, after 5 bytes"),
    "fewer than promised": (IMAGES, packed(NOISE[:5], count=30), r"promises 30 and ends after 5 of the 10 examples"),
    "fewer than asked for": (IMAGES, packed(NOISE[:5]), r"holds 5 of the 10 examples asked for; ask for fewer"),
    "cut off": (IMAGES, SOUND[:4000], r"promises 30 and ends after \d of the 10 examples"),
    "not gzip": (IMAGES, idx_bytes(NOISE), r"not a sound gzip file .*original file"),
    "damaged gzip": (IMAGES, bytes(DAMAGED), r"not a sound gzip file"),
    "a bit flipped": (IMAGES, bytes(FLIPPED), r"not a sound gzip file \(CRC check failed.*original file"),
    "a label of no class": (LABELS, packed(np.full(30, 11, np.uint8)), r"train-labels.*label 11 at example 0, past the last"),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_idx_files_that_will_not_do(offline, case):
    name, content, message = BAD_IDX[case]
    write_idx(offline / "own" / "mnist")
    (offline / "own" / "mnist" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        lj.data.mnist(10, 0)


def test_a_file_that_was_cut_off_serves_what_it_holds(offline):
    write_idx(offline / "own" / "mnist")
    (offline / "own" / "mnist" / IMAGES).write_bytes(SOUND[:4000])
    (x, _), _ = lj.data.mnist(3, 0)
    np.testing.assert_array_equal(np.round(x[..., 0] * 255), NOISE[:3])


RECORD = 3073
BAD_CIFAR = {  # good bytes ↦ bad bytes, what the message says
    "a truncated record": (lambda good: good[:-5], r"ends within a record: 61455 bytes are 19 records of 3073 bytes and 3068"),
    "fewer than asked for": (lambda good: good[: 4 * RECORD], r"data_batch_1.bin holds 4 of the 10 examples.*ask for fewer"),
    "an empty file": (lambda good: b"", r"holds 0 of the 10 examples"),
    "a label of no class": (
        lambda good: good[:RECORD] + b"\x0c" + good[RECORD + 1 :],
        r"label 12 at example 1, past the last class 9; .*original file",
    ),
}


@pytest.mark.parametrize("case", BAD_CIFAR)
def test_cifar_files_that_will_not_do(offline, case):
    spoil, message = BAD_CIFAR[case]
    path = offline / "own" / "cifar-10-batches-bin" / "data_batch_1.bin"
    write_cifar10(path.parent)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        lj.data.cifar10(10, 0)


def test_cifar100_is_not_cifar10(offline):
    """19 records of CIFAR-10's size are no whole number of CIFAR-100's."""
    write_cifar100(offline / "own" / "cifar-100-binary")
    write_cifar10(offline / "own" / "cifar-10-batches-bin")
    (offline / "own" / "cifar-10-batches-bin" / "data_batch_1.bin").rename(offline / "own" / "cifar-100-binary" / "train.bin")
    with pytest.raises(ValueError, match=r"train.bin ends within a record: 61460 bytes are 19 records of 3074 bytes"):
        lj.data.cifar100(5, 0)


@pytest.mark.parametrize("n", [(0, 5), (-1, 5), (60_001, 5), (5, -1), (5, 10_001)])
@pytest.mark.parametrize("read", [entry[0] for entry in SETS.values()], ids=SETS)
def test_more_or_fewer_than_the_set_has(offline, read, n):
    with pytest.raises(ValueError, match=rf"{read.__name__}: n_train={n[0]} must lie between 1 and [56]0000 and n_test={n[1]}"):
        read(*n)


def test_a_scale_that_loses_examples(offline):
    write_idx(offline / "own" / "mnist")
    with pytest.raises(ValueError, match=r"scale made \(9, 28, 28, 1\) of inputs \(10, 28, 28, 1\)"):
        lj.data.mnist(10, 0, scale=lambda train_x, x: x[1:])


def test_a_whole_file_with_another_md5(offline, monkeypatch):
    write_cifar10(offline / "own" / "cifar-10-batches-bin")
    source = lj.data.cifar.CIFAR10
    entry = source.files["data_batch_1.bin"]._replace(length=20 * RECORD)
    changed = source._replace(files=source.files | {"data_batch_1.bin": entry})
    monkeypatch.setattr("landscape_jax.data.cifar.CIFAR10", changed)
    with pytest.raises(ValueError, match=rf"data_batch_1.bin is corrupt: its md5 is \w+, not {entry.md5}; delete it"):
        lj.data.cifar10(10, 0)
