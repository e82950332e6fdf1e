"""The page on these optimizers: what its table names exists, and none is missing."""

from __future__ import annotations

import re
from pathlib import Path

import jopt
from jopt.optimizers import CATALOG
from jopt.training._config_checks import validate
from jopt.training._flags import load_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/smoothness.md").read_text()
TABLE = re.findall(
    r"^\| (.+?) \| (.+?) \| `jopt\.(.+?)` \| (.+?) \| `(.+?)` \|$", PAGE, re.M
)


def test_the_table_names_what_there_is():
    functions = {row[2] for row in TABLE}
    assert {n for n, entry in CATALOG.items() if entry.whole_tree} <= functions
    for _, _, function, config, test in TABLE:
        assert callable(getattr(jopt, function))
        assert f"jopt.{function}(" in (ROOT / test).read_text()
        for reference in re.findall(r"`(configs/.+?)`", config):
            validate(load_config(str(ROOT / reference)))


def test_every_variant_of_the_config_is_whole():
    for variant in ("released", "paper", "quick", "narrow", "perturbation", "sa_sgd"):
        config = load_config(str(ROOT / f"configs/sa_sam_digits.py:{variant}"))
        validate(config)
        assert config.optim.whole_tree.optimizer.name in CATALOG
