"""What `import jopt` costs."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import jopt
from jax._src import xla_bridge
import jax
assert not xla_bridge.backends_are_initialized()
heavy = {"flax", "orbax", "grain", "tensorflow_datasets", "matplotlib"}
heavy |= {"ml_collections", "tqdm"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
rule = {"match": ".", "name": "muon", "learning_rate": 0.1}
config = {"optim": {"order": ("all",), "rules": {"all": rule}}}
jopt.optimizers.build(config, {"w": jax.ShapeDtypeStruct((4, 4), "float32")})
assert not xla_bridge.backends_are_initialized()
"""


def test_import_and_build_load_little_and_touch_no_device():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
