"""Text as characters: any UTF-8 file becomes windows of integers and their successors."""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from landscape_jax.arguments import count


class Text(NamedTuple):
    """A text cut into windows; y is x one character later."""

    train: tuple[Array, Array]  # x, y: [n, length] int32
    test: tuple[Array, Array]
    vocabulary: str  # its distinct characters, sorted: code i stands for vocabulary[i]


def characters(source: str | Path, length: int = 64, *, stride: int | None = None, test_fraction: float = 0.1) -> Text:
    """A text as examples for next-character prediction: x = (c_i, …, c_{i+L−1}), y = (c_{i+1}, …, c_{i+L}).

    Args:
      source: a `pathlib.Path` to a UTF-8 file, or the text itself.
      length: L, characters in a window.
      stride: from one window's start to the next one's; the default, `length`, predicts every character once.
      test_fraction: the end of the text that is kept for testing, in [0, 1); no window reaches over the cut. With 0 the
        test arrays are empty.
    Returns: (train, test, vocabulary), the vocabulary that of the whole text.

    Memory: 8 · length / stride bytes a character.
    Errors: `ValueError` for an empty text, one shorter than a window and its successor, or a file that is not UTF-8.

    >>> text = lj.data.characters("to be or not to be " * 9, length=8)
    >>> text.vocabulary, text.train[0].shape[1]
    (' benort', 8)
    """
    stride = length if stride is None else stride
    count("characters", None, length=length, stride=stride)
    if length < 1 or stride < 1 or not 0 <= test_fraction < 1:
        raise ValueError(
            f"characters: length={length} and stride={stride} must be at least 1 and test_fraction={test_fraction} in [0, 1)"
        )
    text = _read(source) if isinstance(source, Path) else source
    if not text:
        raise ValueError(f"characters: {_told(source)} is empty; there is nothing to predict")
    vocabulary = "".join(sorted(set(text)))
    codes = encoded(vocabulary, text)
    cut = len(codes) - round(test_fraction * len(codes))
    train = _windows("training", source, codes[:cut], length, stride)
    if test_fraction == 0:
        none = jnp.zeros((0, length), jnp.int32)
        return Text(train, (none, none), vocabulary)
    return Text(train, _windows("test", source, codes[cut:], length, stride), vocabulary)


def encoded(vocabulary: str, text: str) -> np.ndarray:
    """The codes of a text's characters, [len(text)] int32: their places in the vocabulary.

    >>> lj.data.encoded("abc", "cab").tolist()
    [2, 0, 1]
    """
    place = {character: i for i, character in enumerate(vocabulary)}
    unknown = sorted(set(text) - place.keys())
    if unknown:
        raise ValueError(f"encoded: the vocabulary has no {', '.join(map(repr, unknown[:10]))}; build it from a text that does")
    return np.fromiter((place[character] for character in text), np.int32, len(text))


def decoded(vocabulary: str, codes: Array | np.ndarray) -> str:
    """The text of codes [n]: the inverse of `encoded`.

    >>> lj.data.decoded("abc", np.array([2, 0, 1]))
    'cab'
    """
    codes = np.asarray(codes)
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"decoded: codes {codes.shape} of dtype {codes.dtype} must be integers [n]; pass one window at a time")
    if codes.size and not (0 <= codes.min() and codes.max() < len(vocabulary)):
        raise ValueError(f"decoded: codes {codes.min()} … {codes.max()} leave the vocabulary of {len(vocabulary)} characters")
    return "".join(vocabulary[i] for i in codes)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # not read_text, which would change line ends
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from error


def _told(source: str | Path) -> str:
    return str(source) if isinstance(source, Path) else "the text"


def _windows(part: str, source: str | Path, codes: np.ndarray, length: int, stride: int) -> tuple[Array, Array]:
    if len(codes) < length + 1:
        hint = "" if isinstance(source, Path) else " (a str is the text itself: for a file pass a pathlib.Path)"
        raise ValueError(
            f"characters: the {part} part of {_told(source)} has {len(codes)} characters, fewer than a window of "
            f"length={length} and its successor; choose a smaller length or another test_fraction{hint}"
        )
    starts = np.arange(0, len(codes) - length, stride)[:, None]
    place = starts + np.arange(length)[None]  # [n, length]
    return jnp.asarray(codes[place]), jnp.asarray(codes[place + 1])
