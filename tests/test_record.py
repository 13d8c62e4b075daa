"""What is written is what is read."""

import json

import numpy as np
import pytest

from landscape_jax import record
from landscape_jax.record import Claim


def claim(passed):
    return Claim("id", "It rises.", "Author 2021", "at least 2", {"ratio": np.float32(2.5), "bad": float("nan")}, passed)


def test_round_trip(tmp_path):
    written = {"step": np.arange(4), "top": {"values": np.ones((4, 3)), "flags": np.array([True, False, True, True])}}
    record.write(tmp_path / "a" / "b", written, [claim(True)], seed=3, config={"rates": (0.1, 0.2)})
    config, read, claims = record.read(tmp_path / "a" / "b")
    assert config == {"seed": 3, "config": {"rates": [0.1, 0.2]}}
    assert set(read) == {"step", "top"}
    for name in ("values", "flags"):
        np.testing.assert_array_equal(read["top"][name], written["top"][name])
        assert read["top"][name].dtype == written["top"][name].dtype
    assert claims[0]["measured"] == {"ratio": 2.5, "bad": None}
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["claims.json", "config.json", "record.npz"]


def test_claims_file_has_the_public_fields(tmp_path):
    record.write(tmp_path, claims=[claim(True), claim(False), claim(None)])
    rows = json.loads((tmp_path / "claims.json").read_text())
    assert [set(row) for row in rows] == 3 * [{"id", "statement", "source", "criterion", "measured", "verdict"}]
    assert [row["verdict"] for row in rows] == ["reproduced", "not reproduced", "not tested"]


def test_a_folder_without_a_result_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a result folder"):
        record.read(tmp_path)


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(record.Unwritable, match="choose another folder"):
        record.prepare(tmp_path / "file" / "below")


def test_a_name_that_would_not_come_back_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rename it"):
        record.write(tmp_path, {"a/b": np.zeros(2)})
