"""A user's function as the source of data, and names that lead nowhere."""

import sys

import numpy as np
import pytest

from codex_ray.data.dataset import Records
from codex_ray.data.dotted import import_by_name
from codex_ray.data.in_memory import InMemory, as_records
from codex_ray.data.python_factory import PythonData
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import Randomness

CLINICS = """
import numpy as np
from codex_ray.data.dataset import Records
from codex_ray.data.in_memory import InMemory

class Sloppy:
    population = 2
    def client(self, client):
        return Records(np.ones((3, 2)), np.array([0, 1, 1], dtype=np.int8)) if client else "none"
    def test(self):
        return Records(np.full((1, 2), np.nan), np.zeros(1, dtype=np.int64))

class Empty:
    population = 0
    client = test = None

def make(clients, width=2, public=None):
    assert public is not None
    rng = public.stream("clinics").numpy()
    def records(count):
        return Records(rng.random((count, width)).astype(np.float32), np.arange(count) % 2)
    return InMemory([records(4) for _ in range(clients)], records(6))

def nothing():
    return [1, 2]

def broken():
    return {}["absent"]

number = 5
"""


@pytest.fixture(autouse=True)
def clinics(tmp_path, monkeypatch):
    (tmp_path / "clinics_of_mine.py").write_text(CLINICS)
    (tmp_path / "needs_more.py").write_text("import no_such_library_anywhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "clinics_of_mine", raising=False)


def opened(name, **args):
    return PythonData(factory=f"clinics_of_mine:{name}", args=args).open(Randomness.of(0).public)


def test_factory_gets_its_arguments_and_the_public_streams():
    data = opened("make", clients=3, width=5)
    assert data.population == 3
    assert data.client(2).features.shape == (4, 5)
    assert len(data.test()) == 6
    assert np.array_equal(
        data.client(1).features, opened("make", clients=3, width=5).client(1).features
    )


def test_records_are_checked_and_brought_to_the_types_of_the_house():
    data = opened("Sloppy")
    assert data.client(1).features.dtype == np.float32
    assert data.client(1).labels.dtype == np.int64
    with pytest.raises(DataError, match="clinics_of_mine:Sloppy, client 0: got a str, not Records"):
        data.client(0)
    with pytest.raises(DataError, match=r"the test set: feature .* is nan"):
        data.test()
    with pytest.raises(DataError, match="client 2 does not exist"):
        data.client(2)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("mak", {}, r"data\.factory: clinics_of_mine has no 'mak'; it has .*did you mean 'make'"),
        ("number", {}, r"data\.factory: .* is a int, not a function"),
        ("make", {}, r"data\.args: .* cannot be called with no arguments: .*'clients'"),
        ("make", {"clients": 1, "hight": 2}, r"data\.args: .*'hight'"),
        ("nothing", {}, "returned a list without population, client, test"),
        ("Empty", {}, "there are 0 clients"),
    ],
)
def test_wrong_factories_are_refused(name, args, message):
    with pytest.raises((ConfigError, DataError), match=message):
        opened(name, **args)


def test_an_error_inside_the_factory_is_left_as_it_is():
    with pytest.raises(KeyError, match="absent"):
        opened("broken")


@pytest.mark.parametrize(
    ("dotted", "message"),
    [
        ("clinics_of_mine.make", "with a colon"),
        ("clinics_of_mine:", "names no object"),
        ("no_such_module:make", "the.field: there is no module 'no_such_module'"),
        ("clinics_of_mine.inner:make", "there is no module 'clinics_of_mine.inner'"),
        ("needs_more:make", "'needs_more' imports 'no_such_library_anywhere', which is not inst"),
        ("clinics_of_mine:Sloppy.tset", "Sloppy has no 'tset'; it has population, client, test"),
    ],
)
def test_names_that_lead_nowhere(dotted, message):
    with pytest.raises(ConfigError, match=message):
        import_by_name(dotted, "the.field")


def test_inner_names_are_found():
    assert import_by_name("clinics_of_mine:Sloppy.population", "the.field") == 2


def test_in_memory_checks_what_it_is_given():
    good = as_records([[1.0, 2.0]], [0], where="here")
    assert InMemory([good], good).client(0) is good
    with pytest.raises(DataError, match="at least one client"):
        InMemory([], good)
    with pytest.raises(DataError, match=r"client 0: its features have shape \(3,\)"):
        InMemory([as_records([[1, 2, 3]], [0], where="here")], good)
    with pytest.raises(DataError, match="client 0: label -1 is negative"):
        InMemory([Records(np.ones((1, 2), np.float32), np.array([-1]))], good)
    with pytest.raises(DataError, match="here: labels are float64"):
        as_records([[1.0]], [0.5], where="here")
    with pytest.raises(DataError, match="here: 1 feature rows but 2 labels"):
        as_records([[1.0]], [0, 1], where="here")
