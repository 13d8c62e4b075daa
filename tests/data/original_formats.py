"""Small files in the formats of the published sets, written and read with nothing of the package's."""

import gzip
import struct

import numpy as np

IDX = {"train": 30, "t10k": 12}  # examples in the small MNIST
CIFAR10 = {"data_batch_1.bin": 20, "test_batch.bin": 7}
CIFAR100 = {"train.bin": 15, "test.bin": 6}


def idx_bytes(items, magic=None, count=None):
    """An idx file of uint8 items [n, ...]."""
    header = [0x800 + items.ndim if magic is None else magic, len(items) if count is None else count, *items.shape[1:]]
    return b"".join(struct.pack(">I", number) for number in header) + items.tobytes()


def write_idx(folder, seed=0):
    """The four files of a small MNIST; gives images and labels by part."""
    folder.mkdir(parents=True)
    random, written = np.random.default_rng(seed), {}
    for part, n in IDX.items():
        images = random.integers(0, 256, (n, 28, 28), np.uint8)
        labels = random.permutation(np.arange(n) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images), 1))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels), 1))
        written[part] = images, labels
    return written


def write_cifar(folder, sizes, label_bytes, num_classes, seed=0):
    """Binary CIFAR files with `sizes` records by name; gives images [n, 32, 32, 3] and labels by file."""
    folder.mkdir(parents=True)
    random, written = np.random.default_rng(seed), {}
    for name, n in sizes.items():
        images = random.integers(0, 256, (n, 32, 32, 3), np.uint8)
        labels = random.permutation(np.arange(n) % num_classes).astype(np.uint8)
        with (folder / name).open("wb") as file:
            for image, label in zip(images, labels, strict=True):
                file.write(bytes([7] * (label_bytes - 1) + [label]))  # 7: some coarse class
                for channel in range(3):
                    file.write(image[:, :, channel].tobytes())
        written[name] = images, labels
    return written


def write_cifar10(folder):
    return write_cifar(folder, CIFAR10, 1, 10)


def write_cifar100(folder):
    return write_cifar(folder, CIFAR100, 2, 100)


def read_idx(path):
    """An idx file, read number by number from its header on."""
    data = gzip.decompress(path.read_bytes())
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def read_cifar10(path, n):
    """The first n records of a CIFAR-10 file, one by one, plane by plane."""
    images, labels = np.zeros((n, 32, 32, 3), np.uint8), np.zeros(n, np.uint8)
    with path.open("rb") as file:
        for i in range(n):
            (labels[i],) = struct.unpack("B", file.read(1))
            for channel in range(3):
                images[i, :, :, channel] = np.frombuffer(file.read(1024), np.uint8).reshape(32, 32)
    return images, labels
