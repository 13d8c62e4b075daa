"""MNIST and Fashion-MNIST from their original files: the idx format, gzipped."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jax import Array

from landscape_jax.data import files, images, scaling

SIDE, NUM_CLASSES = 28, 10
NUM_TRAIN, NUM_TEST = 60_000, 10_000
IMAGES, LABELS = 2051, 2049  # magic numbers: 8 = unsigned bytes, then 3 or 1 axes


def _source(title: str, folder: str, mirrors: tuple[str, ...], sums: tuple[tuple[int, str], ...]) -> files.Source:
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    published = {name: files.File(name, md5, length) for name, (length, md5) in zip(names, sums, strict=True)}
    return files.Source(title, folder, published, mirrors)


MNIST = _source(
    "MNIST",
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    (
        (9912422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        (28881, "d53e105ee54ea40749a09fcbcd1e9432"),
        (1648877, "9fb629c4189551a2d022fa330f9573f3"),
        (4542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
)
FASHION_MNIST = _source(
    "Fashion-MNIST",
    "fashion-mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    (
        (26421880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        (29515, "25c81989df183df01b3e8a0aad5dffbe"),
        (4422102, "bef4ecab320f06d8554ea6380940ec79"),
        (5148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ),
)


def mnist(
    n_train: int | None = None, n_test: int | None = None, *, scale: scaling.Scale = scaling.unit, one_hot: bool = True
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Handwritten digits: 60,000 training and 10,000 test images of 28 × 28 grey pixels, 10 classes.

    Read from `$LANDSCAPE_JAX_DATA/mnist`, else from the user's cache, else downloaded into it (12 MB).

    Args:
      n_train: the first so many training images, from 1; the default is all.
      n_test: the first so many test images; the default is all. With 0 no test file is needed.
      scale: what becomes of pixels in [0, 1]; see `data.unit`, `centred`, `per_pixel`, `per_channel`, `per_sample`.
      one_hot: targets as one-hot 0/1 rows; False gives integer classes [n].
    Returns: (train, test), each (images [n, 28, 28, 1], targets [n, 10]) in JAX's default float dtype.

    Errors: `ValueError` for a file that is corrupt, of another format or too short for what is asked; `FileNotFoundError`
    with names, folders and md5s where there is neither a file nor a mirror that answers.

    Source: Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits".

    >>> train, test = lj.data.mnist(1000, scale=lj.data.per_pixel)  # doctest: +SKIP
    """
    return _read("mnist", MNIST, n_train, n_test, scale, one_hot)


def fashion_mnist(
    n_train: int | None = None, n_test: int | None = None, *, scale: scaling.Scale = scaling.unit, one_hot: bool = True
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Articles of clothing, in MNIST's sizes and format: 60,000 + 10,000 images of 28 × 28 grey pixels, 10 classes.

    Read from `$LANDSCAPE_JAX_DATA/fashion-mnist`, else from the user's cache, else downloaded into it (31 MB).
    Arguments, results and errors are those of `mnist`.

    Source: H. Xiao, K. Rasul and R. Vollgraf 2017, arXiv 1708.07747.

    >>> train, test = lj.data.fashion_mnist(1000, one_hot=False)  # doctest: +SKIP
    """
    return _read("fashion_mnist", FASHION_MNIST, n_train, n_test, scale, one_hot)


def _read(name: str, source: files.Source, n_train, n_test, scale: scaling.Scale, one_hot: bool):
    n_train, n_test = images.counts(name, n_train, n_test, NUM_TRAIN, NUM_TEST)

    def part(prefix: str, n: int) -> images.Raw:
        if n == 0:
            return np.zeros((0, SIDE, SIDE, 1), np.uint8), np.zeros(0, np.uint8)
        pixels, _ = items(f"{prefix}-images-idx3-ubyte.gz", IMAGES, (SIDE, SIDE), n)
        labels, path = items(f"{prefix}-labels-idx1-ubyte.gz", LABELS, (), n)
        return pixels[..., None], images.checked_labels(path, labels, NUM_CLASSES)

    def items(file: str, magic: int, shape: tuple[int, ...], n: int) -> tuple[np.ndarray, Path]:
        path = files.located(source, file)  # which checks the md5 of a file of the published length
        return _items(path, magic, shape, n, checked=path.stat().st_size == source.files[file].length), path

    return images.prepared(part("train", n_train), part("t10k", n_test), NUM_CLASSES, scale, one_hot)


def _items(path: Path, magic: int, shape: tuple[int, ...], n: int, checked: bool) -> np.ndarray:
    """The first n items of an idx file, [n, *shape] uint8. One that is not yet checked is read to its checksum."""
    header, size = struct.Struct(f">{2 + len(shape)}I"), math.prod(shape)
    data = _leading(path, header.size + n * size, checked)
    if len(data) < header.size:
        raise ValueError(f"{path} ends within its header, after {len(data)} bytes; {images.REMEDY}")
    found, count, *sides = header.unpack_from(data)
    if found != magic:
        raise ValueError(f"{path} begins with the magic number {found}, not {magic}: it is no such idx file; {images.REMEDY}")
    if tuple(sides) != shape:
        raise ValueError(f"{path} holds items of shape {tuple(sides)}, not {shape}: it is another data set; {images.REMEDY}")
    held = min(count, (len(data) - header.size) // size)
    if held < n:
        told = f"holds {count}" if held == count else f"promises {count} and ends after {held}"
        raise ValueError(f"{path} {told} of the {n} examples asked for; ask for fewer, or {images.REMEDY}")
    return np.frombuffer(data, np.uint8, n * size, header.size).reshape(n, *shape)


def _leading(path: Path, length: int, checked: bool) -> bytes:
    """The first `length` bytes of a gzipped file, or as many as are there when it was cut off."""
    parts = []
    try:
        with gzip.open(path) as stream:
            # read1 gives what it has before the cut, where read would raise
            while length > 0 and (chunk := stream.read1(min(length, 1 << 16))):
                parts.append(chunk)
                length -= len(chunk)
            while not checked and stream.read1(1 << 20):
                pass  # the checksum comes last
    except EOFError:
        pass  # a gzip file that was cut off: what came before the cut may do
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a sound gzip file ({error}); {images.REMEDY}") from error
    return b"".join(parts)
