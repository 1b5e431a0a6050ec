"""Protocols: what each stands for, and when two figures may be compared."""

import numpy as np
import pytest
import torch

from cmtool import images
from cmtool.data.names import names
from cmtool.errors import RecipeError
from cmtool.metrics.features.inception import MODES
from cmtool.metrics.protocols import PROTOCOLS, differences, protocol, protocol_for


def test_there_are_these_and_what_they_name_exists():
    assert set(PROTOCOLS) == {"cm-cifar10", "adm", "edm", "clean"}
    for one in PROTOCOLS.values():
        assert one.mode in MODES
        assert (one.neighbours, one.ddof, one.features) == (3, 1, "inception")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("cifar10", "cm-cifar10"),
        ("imagenet64", "adm"),
        ("lsun-bedroom", "adm"),
        ("lsun-cat", "adm"),
        ("mnist", "clean"),
        ("some/folder", "clean"),
    ],
)
def test_a_data_set_has_the_protocol_of_its_papers(data, name):
    assert protocol_for(data).name == name
    assert "/" in data or data in names()


def test_the_first_paper_floors_and_edm_rounds():
    # 127.5 (x + 1) is 0.5, 127.5, 199.75, 254.9; beyond the range it is cut.
    x = torch.tensor([0.5, 127.5, 199.75, 254.9, -3.0, 300.0]) / 127.5 - 1
    assert protocol("cm-cifar10").quantise(x).tolist() == [0, 127, 199, 254, 0, 255]
    assert protocol("adm").quantise(x).tolist() == [0, 127, 199, 254, 0, 255]
    assert protocol("edm").quantise(x).tolist() == [1, 128, 200, 255, 0, 255]
    assert torch.equal(protocol("clean").quantise(x), images.to_uint8(x))


def test_flooring_is_the_published_arithmetic():
    x = np.random.default_rng(0).uniform(-1.1, 1.1, 10_000).astype(np.float32)
    theirs = np.clip((x + 1) / 2 * 255.0, 0, 255).astype(np.uint8)
    found = protocol("cm-cifar10").quantise(torch.from_numpy(x)).numpy()
    assert (theirs != found).mean() < 1e-3  # floats on the edge of a byte
    assert np.abs(theirs.astype(int) - found).max() <= 1


def test_a_record_tells_the_choices():
    record = protocol("adm").record()
    assert record["mode"] == "legacy_tensorflow"
    assert (record["references"], record["inception_score"]) == (10_000, "chunks")
    assert (record["rounding"], record["ddof"]) == ("floor", 1)


def test_figures_differ_by_what_their_records_tell():
    one = {**protocol("edm").record(), "n": 50_000, "facts": {"weights": "a", "resize": "b"}}
    assert differences(one, dict(one)) == []
    other = {**protocol("adm").record(), "n": 10_000, "facts": {"weights": "c", "resize": "b"}}
    found = differences(one, other)
    assert "n 50000 and 10000" in found
    assert "facts.weights a and c" in found
    assert "rounding nearest and floor" in found
    assert differences({"n": 1}, {}) == ["n 1 and None"]


def test_an_unknown_protocol_is_named():
    with pytest.raises(RecipeError, match="did you mean 'clean'"):
        protocol("cleen")
