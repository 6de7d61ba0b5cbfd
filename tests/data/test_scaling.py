"""Public ranges: the ends go to -1 and 1, what lies outside is clipped, nothing is estimated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from codex_ray.data.scaling import PublicScaling, Ranges
from codex_ray.errors import ConfigError

NAMES = ["age", "pressure", "glucose"]


def test_ends_centre_and_clipping():
    scaling = PublicScaling.of(
        {"glucose": (0.0, 10.0), "age": (20.0, 80.0)}, NAMES, where="the clinic"
    )
    assert scaling.columns == (2, 0)
    scaled = scaling.scale(np.array([[0.0, 80.0], [5.0, 35.0], [99.0, 0.0]]))
    assert scaled.dtype == np.float32
    assert np.array_equal(scaled, np.array([[-1.0, 1.0], [0.0, -0.5], [1.0, -1.0]], np.float32))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(-1e6, 1e6))
def test_a_record_does_not_depend_on_the_others(column, value):
    scaling = PublicScaling.of({"age": (-3.0, 4.0)}, NAMES, where="the clinic")
    alone = scaling.scale(np.array([[value]]))
    among = scaling.scale(np.array([[value], *([other] for other in column)]))
    assert np.array_equal(alone, among[:1])
    assert np.abs(among).max() <= 1.0


def test_unknown_feature_proposes_the_nearest():
    with pytest.raises(ConfigError, match=r"data\.ranges\.presure: .*did you mean 'pressure'"):
        PublicScaling.of({"presure": (0.0, 1.0)}, NAMES, where="the clinic")


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"age": [5, 5]}, r"data\.ranges\.age: the range \[5, 5\] is empty"),
        ({"age": [6, 5]}, r"data\.ranges\.age: the range \[6, 5\] is empty"),
        ({}, "names no feature"),
    ],
)
def test_empty_ranges_are_refused(ranges, message):
    with pytest.raises(ConfigError, match=message):
        TypeAdapter(Ranges).validate_python(ranges)


def test_column_numbers_become_text():
    assert TypeAdapter(Ranges).validate_python({3: [0, 1]}) == {"3": (0.0, 1.0)}
