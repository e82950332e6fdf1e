"""Merges files with the flags given, and prints the most memory that was resident."""

from __future__ import annotations

import resource
import sys

from jopt.weights.merge import main

code = main(sys.argv[1:])
assert code == 0, code
# Of this process, in kilobytes on Linux; pages of files count as well.
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
