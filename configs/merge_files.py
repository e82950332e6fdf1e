"""Models that were fine-tuned from one base, merged on disk: from files to a file.

  python -m jopt merge --config=configs/merge_files.py:ties --dry_run

Expects base.safetensors and models/one.safetensors, models/two.safetensors; name others
by `--base`, `--models` and `--out`, or `--config.KEY`. Runs, Orbax folders and sharded
files may stand in their place. Time and memory: docs/merging_files.md. Search the scale
on validation data (`search.evaluate`) where there are any.
"""

from jopt.errors import check_choice
from jopt.weights import default_merge

# Arguments and scale, as published; lambda without validation data.
METHODS = {
    "task_arithmetic": ({}, 0.3),
    "average": ({}, 1.0),
    "ties": ({"density": 0.2}, 1.0),
}


def get_config(arg=""):
    method = arg or "task_arithmetic"
    check_choice("method", method, METHODS)
    config = default_merge()
    config.base = "base.safetensors"
    config.models = (
        {"path": "models/one.safetensors", "name": "one", "weight": 1.0},
        {"path": "models/two.safetensors", "name": "two", "weight": 1.0},
    )
    config.method = method
    config.kwargs, config.scale = METHODS[method]
    config.keep_base = (r"^head/",)  # heads belong to one task each
    config.out = "merged.safetensors"
    return config
