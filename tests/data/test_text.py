import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import landscape_jax as lj

TEXT = "Größe, naïve — 字\r\n" * 10  # 18 characters a line, some of two and three bytes


def test_windows_are_the_text_and_its_successors(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    train, test, vocabulary = lj.data.characters(path, 8, test_fraction=0.2)
    assert vocabulary == "".join(sorted(set(TEXT)))
    cut = round(0.8 * len(TEXT))
    for (x, y), part in [(train, TEXT[:cut]), (test, TEXT[cut:])]:
        assert x.dtype == y.dtype == jnp.int32
        assert x.shape == y.shape == ((len(part) - 1) // 8, 8)
        for i in range(len(x)):
            assert lj.data.decoded(vocabulary, x[i]) == part[8 * i : 8 * i + 8]
            assert lj.data.decoded(vocabulary, y[i]) == part[8 * i + 1 : 8 * i + 9]


def test_a_string_is_the_text_itself():
    train, test, _ = lj.data.characters("abcabcab", 3, test_fraction=0)
    assert_array_equal(train[0], [[0, 1, 2], [0, 1, 2]])
    assert_array_equal(train[1], [[1, 2, 0], [1, 2, 0]])
    assert test[0].shape == test[1].shape == (0, 3)


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_overlapping_windows(stride):
    (x, y), _, vocabulary = lj.data.characters("abcdefghij", 4, stride=stride, test_fraction=0)
    starts = range(0, 6, stride)  # the last window that has a successor starts at 5
    assert [lj.data.decoded(vocabulary, row) for row in x] == ["abcdefghij"[i : i + 4] for i in starts]
    assert [lj.data.decoded(vocabulary, row) for row in y] == ["abcdefghij"[i + 1 : i + 5] for i in starts]


def test_encoded_and_back():
    vocabulary = "".join(sorted(set(TEXT)))
    codes = lj.data.encoded(vocabulary, TEXT)
    assert codes.min() == 0
    assert codes.max() == len(vocabulary) - 1
    assert lj.data.decoded(vocabulary, codes) == TEXT
    assert lj.data.decoded(vocabulary, lj.data.encoded(vocabulary, "")) == ""


def test_windows_go_into_batches():
    train, _, _ = lj.data.characters(TEXT, 8)
    x, y = lj.data.epochs(train, 4)(jax.random.key(0), jnp.int32(1))
    assert x.shape == y.shape == (4, 8)
    assert_array_equal(x[:, 1:], y[:, :-1])


def file(tmp_path, content):
    path = tmp_path / "input.txt"
    path.write_bytes(content)
    return path


BAD = {
    "an empty file": (lambda tmp: lj.data.characters(file(tmp, b"")), r"input.txt is empty"),
    "an empty text": (lambda tmp: lj.data.characters(""), r"the text is empty"),
    "not UTF-8": (
        lambda tmp: lj.data.characters(file(tmp, "naïve".encode("latin-1"))),
        r"input.txt is not UTF-8: .* at byte 2; save it as UTF-8",
    ),
    "shorter than a window": (
        lambda tmp: lj.data.characters(file(tmp, b"abc"), 3, test_fraction=0),
        r"training part of .*input.txt has 3 characters, fewer than a window of length=3 and its successor; choose a smaller",
    ),
    "a name in place of a path": (lambda tmp: lj.data.characters("input.txt"), r"for a file pass a pathlib.Path"),
    "a test part shorter than a window": (lambda tmp: lj.data.characters(TEXT, 64), r"test part of the text has 18 char"),
    "no length": (lambda tmp: lj.data.characters(TEXT, 0), r"length=0 and stride=0 must be at least 1"),
    "no training": (lambda tmp: lj.data.characters(TEXT, 8, test_fraction=1.0), r"test_fraction=1.0 in \[0, 1\)"),
    "an unknown character": (lambda tmp: lj.data.encoded("abc", "abxy"), r"the vocabulary has no 'x', 'y'"),
    "a code too large": (lambda tmp: lj.data.decoded("abc", np.array([0, 3])), r"codes 0 … 3 leave the vocabulary of 3"),
    "a negative code": (lambda tmp: lj.data.decoded("abc", np.array([-1, 1])), r"codes -1 … 1 leave the vocabulary"),
    "two windows": (lambda tmp: lj.data.decoded("abc", np.zeros((2, 2), int)), r"one window at a time"),
    "numbers that are no codes": (lambda tmp: lj.data.decoded("abc", np.zeros(2)), r"dtype float64 must be integers"),
}


@pytest.mark.parametrize("case", BAD)
def test_texts_that_will_not_do(tmp_path, case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
