"""Settings that must reach the C library and XLA, seen from outside."""

import ctypes
import os
import subprocess
import sys

import pytest

from jopt.training import _platform

# Twenty buffers of 32 MB, one after the other, as XLA's temporary buffer is.
PROBE = """
import resource, sys
import numpy as np
from jopt.training._platform import keep_freed_memory, return_freed_memory
if sys.argv[1] != "plain":
    assert {"keep": keep_freed_memory, "return": return_freed_memory}[sys.argv[1]]()
np.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode, **env):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, mode],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **env},
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt"
)
def test_freed_memory_is_used_again():
    kept = faults("keep")
    assert kept < faults("plain") / 10
    # What goes back to the system is mapped anew each time.
    assert faults("return") > 10 * max(kept, 1)
    # The user's own setting wins: buffers above 16 MB are mapped each time.
    own = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": str(1 << 24)}
    assert kept < faults("keep", **own) / 10


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("own", ["", "--xla_gpu_deterministic_ops=false"])
def test_a_gpu_gets_the_flag_for_equal_bits_unless_the_user_says_otherwise(
    monkeypatch, installed, own
):
    monkeypatch.setattr(_platform, "has_gpu_plugin", lambda: installed)
    monkeypatch.setenv("XLA_FLAGS", own)
    flags = _platform.set_xla_flags()
    found = [flag for flag in flags if "deterministic" in flag]
    if own:
        assert found == [own]
    elif _platform.jaxlib_series() in _platform._GPU_SERIES:
        assert found == ["--xla_gpu_deterministic_ops=true"] * installed
    assert os.environ["XLA_FLAGS"].split() == list(flags)


def test_an_unknown_jaxlib_gets_no_flag(monkeypatch):
    """A flag that XLA does not know ends the process."""
    monkeypatch.setattr(_platform, "has_gpu_plugin", lambda: True)
    monkeypatch.setattr(_platform, "jaxlib_series", lambda: "0.99")
    monkeypatch.setenv("XLA_FLAGS", "")
    assert _platform.set_xla_flags() == ()
    assert not _platform.fast_cpu_bfloat16()


def test_the_flags_are_known_to_this_xla():
    """The real process of a user: XLA reads them all and starts."""
    code = """
from jopt.training import _platform
_platform.has_gpu_plugin = lambda: True
print(_platform.set_xla_flags())
import jax
jax.devices()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "deterministic" in done.stdout
