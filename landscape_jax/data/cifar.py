"""CIFAR-10 and CIFAR-100 from their original files: the binary version, one record an image."""

import numpy as np
from jax import Array

from landscape_jax.data import files, images, scaling

SIDE, CHANNELS = 32, 3
PIXELS = CHANNELS * SIDE * SIDE
NUM_TRAIN, NUM_TEST = 50_000, 10_000
BATCH = 10_000  # records in one file of CIFAR-10
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)


def _files(sums: dict[str, str | None], length: int) -> dict[str, files.File]:
    return {name: files.File(name, md5, length) for name, md5 in sums.items()}


CIFAR10 = files.Source(
    "CIFAR-10",
    "cifar-10-batches-bin",
    _files(
        {
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
        BATCH * (1 + PIXELS),
    ),
    MIRRORS,
    files.File("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
)
CIFAR100 = files.Source(
    "CIFAR-100",
    "cifar-100-binary",
    _files({"train.bin": None}, NUM_TRAIN * (2 + PIXELS)) | _files({"test.bin": None}, NUM_TEST * (2 + PIXELS)),
    MIRRORS,
    files.File("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
)


def cifar10(
    n_train: int | None = None, n_test: int | None = None, *, scale: scaling.Scale = scaling.unit, one_hot: bool = True
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Small photographs: 50,000 training and 10,000 test images of 32 × 32 pixels in 3 colours, 10 classes.

    Read from `$LANDSCAPE_JAX_DATA/cifar-10-batches-bin`, else from the user's cache, else downloaded into it (170 MB).
    Only the files that the asked-for images are in must be there: data_batch_1.bin for up to 10,000.

    Args:
      n_train: the first so many training images, from 1; the default is all.
      n_test: the first so many test images; the default is all. With 0 no test file is needed.
      scale: what becomes of pixels in [0, 1]; see `data.unit`, `centred`, `per_pixel`, `per_channel`, `per_sample`, and
        `standardised` for the constants of all 50,000.
      one_hot: targets as one-hot 0/1 rows; False gives integer classes [n].
    Returns: (train, test), each (images [n, 32, 32, 3], targets [n, 10]) in JAX's default float dtype.

    Errors: `ValueError` for a file that is corrupt, of another format or too short for what is asked; `FileNotFoundError`
    with names, folders and md5s where there is neither a file nor a mirror that answers.

    Source: A. Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".

    >>> train, test = lj.data.cifar10(1000, scale=lj.data.per_channel)  # doctest: +SKIP
    """
    n_train, n_test = images.counts("cifar10", n_train, n_test, NUM_TRAIN, NUM_TEST)
    train = [(f"data_batch_{i + 1}.bin", min(n_train - start, BATCH)) for i, start in enumerate(range(0, n_train, BATCH))]
    return _read(CIFAR10, train, [("test_batch.bin", n_test)], 1, 10, scale, one_hot)


def cifar100(
    n_train: int | None = None, n_test: int | None = None, *, scale: scaling.Scale = scaling.unit, one_hot: bool = True
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """CIFAR-10's format and sizes with 100 (fine) classes.

    Read from `$LANDSCAPE_JAX_DATA/cifar-100-binary`, else from the user's cache, else downloaded into it (169 MB).
    Arguments and errors are those of `cifar10`; targets are [n, 100]. Its authors published no md5 of the single files,
    so only a download is checked.

    Source: A. Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".

    >>> train, test = lj.data.cifar100(1000, scale=lj.data.per_channel)  # doctest: +SKIP
    """
    n_train, n_test = images.counts("cifar100", n_train, n_test, NUM_TRAIN, NUM_TEST)
    return _read(CIFAR100, [("train.bin", n_train)], [("test.bin", n_test)], 2, 100, scale, one_hot)


def _read(source: files.Source, train, test, label_bytes: int, num_classes: int, scale: scaling.Scale, one_hot: bool):
    def part(wanted: list[tuple[str, int]]) -> images.Raw:
        # [n, label bytes + 3072]; the last label byte is the finest
        read = [_records(source, name, n, label_bytes, num_classes) for name, n in wanted]
        records = np.concatenate(read)
        pixels = records[:, label_bytes:].reshape(-1, CHANNELS, SIDE, SIDE)
        return pixels.transpose(0, 2, 3, 1), records[:, label_bytes - 1]

    return images.prepared(part(train), part(test), num_classes, scale, one_hot)


def _records(source: files.Source, name: str, n: int, label_bytes: int, num_classes: int) -> np.ndarray:
    """The first n records of one file, [n, label_bytes + 3072] uint8."""
    size = label_bytes + PIXELS
    if n == 0:
        return np.zeros((0, size), np.uint8)
    path = files.located(source, name)
    held, rest = divmod(path.stat().st_size, size)
    if rest:
        raise ValueError(
            f"{path} ends within a record: {path.stat().st_size} bytes are {held} records of {size} bytes and {rest} more; "
            f"{images.REMEDY}"
        )
    if held < n:
        raise ValueError(f"{path} holds {held} of the {n} examples asked of it; ask for fewer, or {images.REMEDY}")
    records = np.fromfile(path, np.uint8, n * size).reshape(n, size)
    images.checked_labels(path, records[:, label_bytes - 1], num_classes)
    return records
