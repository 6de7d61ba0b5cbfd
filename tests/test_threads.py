"""How a process is set up: torch comes without its tables, and with all of them when asked."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from codex_ray.threads import TABLES, importing

ALONE = "from codex_ray.threads import import_torch_alone; import_torch_alone()\n"
KERNELS = (
    "import torch, sys\n"
    "{ask}\n"
    "print(*sorted(m for m in sys.modules if m.startswith(('torch.', 'torchgen'))))\n"
    "print(*sorted(torch._C._dispatch_get_registrations_for_dispatch_key('Meta')))\n"
)
"""Prints every module of torch and every operator that knows what to do on the device "meta"."""


def _said(code: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def whole() -> str:
    """What an ordinary import of torch leaves behind."""
    return _said(KERNELS.format(ask=""))


def test_torch_alone_has_no_table() -> None:
    found = _said(ALONE + "import sys; print(*sys.modules)").split()
    assert "torch.nn" in found
    assert not TABLES & set(found)


IN_TURN = """
import os, sys
from importlib import import_module
for name in {names}:
    if os.fork() == 0:
        module = import_module(name)
        assert module is sys.modules[name] and module.__spec__.name == name
        assert type(module.__spec__.loader).__name__ == "SourceFileLoader"
        os._exit(0 if {tables} <= set(sys.modules) else 1)
    assert os.wait()[1] == 0, name
"""


@pytest.mark.slow
def test_whichever_table_is_first_brings_all_of_them(whole: str) -> None:
    names = (*sorted(TABLES), "torch._refs.nn.functional", "torch._decomp.decompositions")
    _said(ALONE + IN_TURN.format(names=names, tables=set(TABLES)))


def test_the_tables_that_come_later_are_those_of_an_ordinary_import(whole: str) -> None:
    assert _said(ALONE + KERNELS.format(ask="import torch._decomp")) == whole
    assert _said(ALONE + KERNELS.format(ask="")) != whole


USES = """
import torch
from torch.func import grad, vmap
from torch._subclasses.fake_tensor import FakeTensorMode
import os
layer, x = torch.nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
def mapped():
    loss = lambda x: torch.nn.functional.cross_entropy(x, torch.zeros(3, dtype=torch.long))
    return vmap(grad(loss))(torch.randn(4, 3, 5)).shape == (4, 3, 5)
def fake():
    with FakeTensorMode():
        return torch.nn.Conv2d(3, 4, 3)(torch.randn(2, 3, 8, 8)).shape == (2, 4, 6, 6)
def compiled():
    return torch.equal(torch.compile(layer, backend="eager")(x), layer(x))
for use in (mapped, fake, compiled):
    if os.fork() == 0:
        os._exit(0 if use() else 1)
    assert os.wait()[1] == 0, use
"""


@pytest.mark.slow
def test_what_reads_a_table_gets_it() -> None:
    _said(ALONE + USES)


def test_another_version_of_torch_is_imported_as_it_is() -> None:
    other = "import codex_ray.threads as t; t.KNOWN = '1.'; t.import_torch_alone()\n"
    assert set(_said(other + "import sys; print(*sys.modules)").split()) >= TABLES


def test_nothing_searches_for_garbage_while_importing() -> None:
    with importing():
        assert not gc.isenabled()
        with importing():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


ACCOUNTS = """
import os, scipy.fft, numpy as np
from codex_ray.threads import give_back
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
scipy.fft.fft(np.zeros(2, complex)), scipy.fft.rfft(np.zeros(2))
give_back()
before = resident()
for more in range(20):
    length = 2**17 + 2 * more
    scipy.fft.ifft(scipy.fft.fft(np.ones(length, complex)))
    scipy.fft.irfft(scipy.fft.rfft(np.ones(length)))
grown = resident() - before
give_back()
print(grown, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_the_tables_of_transforms_are_given_back() -> None:
    """Accounts of run after run, each of another length, once made a coordinator grow."""
    grown, left = map(float, _said(ACCOUNTS).split())
    assert grown > 20 and left < grown / 4
