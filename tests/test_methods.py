"""The table of methods: its functions, configs and tests exist, and none is missing."""

from __future__ import annotations

import operator
import re
from pathlib import Path

import jax
import optax
import pytest

import jopt
from jopt.optimizers import CATALOG, build
from jopt.training.methods import METHODS, method_rule

ROOT = Path(__file__).parents[1]
TABLE = re.findall(
    r"^\| (.+?) \| (.+?) \| `(.+?)` \| `(.+?)` \| (.+?) \|$",
    (ROOT / "docs/optimizers.md").read_text(),
    re.M,
)


def test_the_table_names_every_method_and_what_it_names_exists():
    assert sorted(row[3] for row in TABLE) == sorted(METHODS)
    for _, _, function, method, tests in TABLE:
        package = {"jopt": jopt, "optax": optax}[function.split(".")[0]]
        found = operator.attrgetter(function.split(".", 1)[1])(package)
        assert callable(found)
        own = METHODS[method].optimizer
        assert function.endswith(f".{own}") or method == "muon_hyperball"
        texts = [(ROOT / test).read_text() for test in re.findall(r"`(.+?)`", tests)]
        # A file may go through the whole catalog.
        assert any(own in text or "CATALOG" in text for text in texts), method


def test_every_optimizer_of_the_catalog_is_a_method():
    # Scion's step beside matrices, and the plainest steps of all, are no methods.
    others = {"scion_sign", "sgd", "torch_sgd", "torch_rmsprop", "torch_adam"}
    by_rule = {name for name, entry in CATALOG.items() if not entry.whole_tree}
    assert {m.optimizer for m in METHODS.values()} | others == by_rule


@pytest.mark.parametrize("name", METHODS)
def test_a_rule_with_the_method_trains_and_resumes_its_shapes(name):
    params = {"w": jax.ShapeDtypeStruct((4, 6), "float32")}
    rules = {"all": method_rule(name, ".*", {name: 0.01})}
    tx, needs, _ = build({"optim": {"order": ("all",), "rules": rules}}, params)
    available = {"half_difference": params, "activation_grams": {}}
    extra = {need: available[need] for need in needs}
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, state, params, **extra)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (updates, after)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), (params, state)
    )


@pytest.mark.parametrize("file", ["methods_lm", "methods_digits"])
def test_the_configs_have_a_rate_for_every_method(file, monkeypatch):
    from jopt.training._flags import load_config

    monkeypatch.chdir(ROOT)
    for name in METHODS:
        rule = load_config(f"configs/{file}.py:{name},micro").optim.rules.matrix
        assert rule.name == METHODS[name].optimizer and rule.learning_rate > 0
