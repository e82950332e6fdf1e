"""palsgd_lm.py where each of the four replicas has genres of its own.

python -m jopt sweep --config=configs/sweeps/palsgd_genres_lm.py

Data parallelism has the same batches. `python -m jopt study palsgd_genres_lm` runs and
compares it.
"""

from jopt.studies import compare_palsgd_on_language


def get_config(arg=""):
    return compare_palsgd_on_language(arg, domain_shards=4)
