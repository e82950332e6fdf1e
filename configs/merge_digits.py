"""Eight models of real digits, merged on disk; one with a long task vector if asked.

  python -m jopt study merging_digits     # leaves its models in its folder
  python -m jopt merge --config=configs/merge_digits.py
  python -m jopt merge --config=configs/merge_digits.py:tsv_m,mismatch

The argument is a method, then `original` or `mismatch`. The scale is searched on 250
validation digits. A merge takes seconds. `mismatch` says which source is harmful;
`--config.KEY` changes what else is in `docs/merging_files.md`.
"""

from pathlib import Path

import numpy as np

from jopt.errors import check_choice
from jopt.weights import default_merge

MODELS = Path("runs/merging_digits-default/models")
METHODS = ("task_arithmetic", "ties", "tsv_m", "iso_c", "iso_cts", "wudi")
TASKS = (
    *("identity", "rot90", "flip", "negative"),
    *("permuted_a", "permuted_b", "rot180", "permuted_c"),
)


def get_config(arg=""):
    method, _, sources = (arg or "tsv_m").partition(",")
    check_choice("method", method, METHODS)
    check_choice("sources", sources or "original", ("original", "mismatch"))
    long = {"identity": "identity_long"} if sources == "mismatch" else {}
    config = default_merge()
    config.base = str(MODELS / "base.safetensors")
    config.models = tuple(
        {"path": str(MODELS / f"{long.get(task, task)}.safetensors"), "name": task}
        for task in TASKS
    )
    config.method = method
    config.keep_base = (r"^heads/",)  # frozen, those of all tasks
    config.search.evaluate = "jopt.studies.merging:validation_accuracies"
    config.search.grid = tuple(np.linspace(0, 3, 61).tolist())
    config.out = f"runs/merged_digits-{method}-{sources or 'original'}.safetensors"
    return config
