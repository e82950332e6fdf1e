"""Settings that must reach the C library, seen from outside: by page faults."""

import ctypes
import os
import subprocess
import sys

import pytest

# Twenty buffers of 32 MB, one after the other, as XLA's temporary buffer is.
PROBE = """
import resource, sys
import numpy as np
from jopt.training._platform import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
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
    # The user's own setting wins: buffers above 16 MB are mapped each time.
    own = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": str(1 << 24)}
    assert kept < faults("keep", **own) / 10
