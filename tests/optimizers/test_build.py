"""Rules: assignment, arguments, every fault, the table."""

from __future__ import annotations

import copy
import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict, config_dict

import jopt
from jopt.matrix import MatrixSpec
from jopt.optimizers import CATALOG, Entry, build, explain
from jopt.transforms import MomentumState
from jopt.tree import named_leaves, size_bytes

SHAPES = {
    "embed": {"table": (10, 4)},
    "blocks": {
        "0": {
            "qkv": {"kernel": (4, 8)},
            "mlp": {"kernel": (4, 6), "bias": (6,)},
        }
    },
    "head": {"kernel": (4, 10)},
}
SPECS = {"blocks/0/qkv/kernel": MatrixSpec((0,), (1,), split=(4, 2, 2))}


def tree(make):
    return jax.tree.map(make, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


STRUCTS = tree(lambda shape: jax.ShapeDtypeStruct(shape, "float32"))


def config():
    return {
        "optim": {
            "order": ("matrix", "rest"),
            "rules": {
                "matrix": {
                    "match": "blocks/.*/kernel",
                    "name": "muon",
                    "learning_rate": 0.02,
                    "weight_decay": 0.1,
                },
                "rest": {"match": ".*", "name": "adamw", "learning_rate": 0.003},
            },
        }
    }


def changed(**changes):
    """`config()` with values set at dotted paths below `optim`."""
    c = copy.deepcopy(config())
    for path, value in changes.items():
        *keys, last = path.split("__")
        level = c["optim"]
        for key in keys:
            level = level.setdefault(key, {})
        level[last] = value
    return c


def random(seed):
    key = jax.random.key(seed)
    return tree(
        lambda shape: jax.random.normal(jax.random.fold_in(key, shape[-1]), shape)
    )


def faults(c, specs=SPECS, params=STRUCTS):
    with pytest.raises(jopt.ConfigError) as error:
        build(c, params, matrix_specs=specs)
    return str(error.value)


def test_each_parameter_gets_the_first_rule_and_its_optimizer():
    optimizer = build(config(), STRUCTS, matrix_specs=SPECS)
    assert {row.path: row.rule for row in optimizer.table} == {
        "blocks/0/mlp/bias": "rest",
        "blocks/0/mlp/kernel": "matrix",
        "blocks/0/qkv/kernel": "matrix",
        "embed/table": "rest",
        "head/kernel": "rest",
    }
    params, grads = random(0), random(1)
    updates, _ = optimizer.tx.update(grads, optimizer.tx.init(params), params)
    found = named_leaves(updates)

    def alone(tx, path):
        p, g = {path: named_leaves(params)[path]}, {path: named_leaves(grads)[path]}
        return tx.update(g, tx.init(p), p)[0][path]

    for path in ("blocks/0/mlp/kernel", "blocks/0/qkv/kernel"):
        specs = {p: spec for p, spec in SPECS.items() if p == path}
        muon = jopt.muon.matrices(0.02, weight_decay=0.1, matrix_specs=specs)
        np.testing.assert_allclose(found[path], alone(muon, path), atol=1e-6)
    for path in ("embed/table", "blocks/0/mlp/bias"):
        expected = alone(optax.adamw(0.003), path)
        np.testing.assert_allclose(found[path], expected, rtol=1e-5)


def test_heads_of_a_rule_are_matrices_of_their_own():
    c = changed(order=("heads", "matrix", "rest"))
    heads = {"match": "qkv", "name": "muon", "learning_rate": 0.02}
    c["optim"]["rules"]["heads"] = heads | {"per_head": (2, 1, 1)}
    optimizer = build(c, STRUCTS, matrix_specs=SPECS)
    table = {row.path: row.matrices for row in optimizer.table}
    path = "blocks/0/qkv/kernel"
    assert table[path] == ((2, 4, 2), (1, 4, 2), (1, 4, 2))
    assert table["blocks/0/mlp/kernel"] == ((1, 4, 6),)

    params, grads = random(0), random(1)
    tx = optimizer.tx
    updates = named_leaves(tx.update(grads, tx.init(params), params)[0])[path]
    for head in np.split(np.arange(8), 4):
        polar = jopt.orthogonalize(named_leaves(grads)[path][:, head])
        expected = -0.02 * 0.2 * 4**0.5 * polar
        np.testing.assert_allclose(updates[:, head], expected, atol=1e-6)


def test_heads_come_from_the_declared_axes():
    shapes = {"q": jax.ShapeDtypeStruct((8, 2, 4), "float32")}
    rule = {"match": "q", "name": "muon", "learning_rate": 0.1, "per_head": True}
    c = {"optim": {"order": ("all",), "rules": {"all": rule}}}
    specs = {"q": MatrixSpec((0,), (1, 2))}
    assert build(c, shapes, matrix_specs=specs).table[0].matrices == ((2, 8, 4),)
    rule["per_head"] = False
    assert build(c, shapes, matrix_specs=specs).table[0].matrices == ((1, 8, 8),)


def test_heads_that_cannot_be():
    text = faults(changed(rules__matrix__per_head=True))
    assert "optim.rules.matrix.per_head for blocks/0/mlp/kernel (4, 6)" in text
    assert "does not say which axis is the heads" in text
    text = faults(changed(rules__matrix__per_head=(3, 1, 1)))
    assert "(3, 1, 1) does not divide the blocks" in text
    for wrong in ("yes", (2, 0, 1), 1.5):
        text = faults(changed(rules__matrix__per_head=wrong))
        assert "optim.rules.matrix.per_head: expected True, a number" in text
    text = faults(changed(rules__rest__per_head=True))
    assert "optim.rules.rest.per_head: adamw does not see matrices" in text


def test_a_scanned_model_takes_the_steps_of_its_layers():
    from jopt.models import transformer_lm

    settings = {"num_layers": 3, "embed_dim": 8, "num_heads": 2, "fused_qkv": True}

    @functools.partial(jax.jit, static_argnums=0)
    def step(scan, params, grads):
        model = transformer_lm({**settings, "scan": scan})
        c = changed(rules__matrix__match=r"blocks/.*/kernel", rules__matrix__steps=2)
        tx = build(c, params, matrix_specs=model.matrix_specs).tx
        return tx.update(grads, tx.init(params), params)[0]

    def stacked(tree):
        layers = [tree["blocks"][str(number)] for number in range(3)]
        return {**tree, "blocks": jax.tree.map(lambda *x: jnp.stack(x), *layers)}

    params, _ = transformer_lm(settings).init(jax.random.key(0), None)
    grads = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    expected = named_leaves(stacked(step(False, params, grads)))
    found = named_leaves(step(True, stacked(params), stacked(grads)))
    assert found.keys() == expected.keys()
    for path, update in expected.items():
        np.testing.assert_allclose(found[path], update, atol=1e-6, err_msg=path)


def test_every_form_of_declaration_reaches_the_rules():
    from optax.contrib import MuonDimensionNumbers

    blocks = {
        "qkv": {"kernel": MuonDimensionNumbers(1, 0)},
        "mlp": {"kernel": None, "bias": None},
    }
    tree = {"blocks": {"0": blocks}}
    for specs in (tree, lambda params: tree):
        c = changed(rules__matrix__match="qkv")
        table = build(c, STRUCTS, matrix_specs=specs).table
        assert {r.path: r.matrices for r in table if r.rule == "matrix"} == {
            "blocks/0/qkv/kernel": ((1, 8, 4),)
        }
        text = faults(config(), specs)
        assert "blocks/0/mlp/kernel (4, 6), which has no matrix view" in text
    text = faults(config(), {"blocks/0/qvk": None, "blocks": MatrixSpec((0,), (1,))})
    assert "'blocks/0/qvk', which is no parameter; did you mean 'blocks/0/qkv'" in text


def test_config_dict_objects_and_placeholders_read_the_same():
    dicts = config()
    dicts["optim"]["rules"]["rest"]["weight_decay"] = None
    with_placeholders = ConfigDict(config())
    with_placeholders.optim.rules.rest.weight_decay = config_dict.placeholder(float)
    with_placeholders.optim.whole_tree = ConfigDict(
        {"clip": config_dict.placeholder(float)}
    )

    def as_object(value):
        if not isinstance(value, dict):
            return value
        return types.SimpleNamespace(**{k: as_object(v) for k, v in value.items()})

    tables = [
        build(c, STRUCTS, matrix_specs=SPECS).table
        for c in (config(), dicts, with_placeholders, as_object(config()))
    ]
    assert all(table == tables[0] for table in tables)


def test_schedule_multiplies_every_rule():
    c = config() | {
        "train": {"steps": 4, "schedule": {"name": "constant", "warmup": 2}}
    }
    params, grads = random(0), random(1)
    found, plain = (build(x, STRUCTS, matrix_specs=SPECS).tx for x in (c, config()))
    halved, state = found.update(grads, found.init(params), params)
    whole, plain_state = plain.update(grads, plain.init(params), params)
    jax.tree.map(
        lambda h, w: np.testing.assert_allclose(h, 0.5 * w, rtol=1e-6), halved, whole
    )
    second, _ = found.update(grads, state, params)
    expected, _ = plain.update(grads, plain_state, params)
    jax.tree.map(
        lambda s, e: np.testing.assert_allclose(s, e, rtol=1e-6), second, expected
    )


def test_a_table_in_a_rule_is_a_linear_schedule():
    ramp = {"init_value": 0.0, "end_value": 1.0, "transition_steps": 2}
    c = changed(rules__matrix__beta=ramp, rules__matrix__nesterov=False)
    optimizer = build(ConfigDict(c), STRUCTS, matrix_specs=SPECS)
    params = tree(jnp.ones)
    state = optimizer.tx.init(params)
    (momentum,) = [
        node
        for node in jax.tree.leaves(
            state, is_leaf=lambda node: isinstance(node, MomentumState)
        )
        if isinstance(node, MomentumState)
    ]
    assert momentum.step == 0
    # With a decay of 0 the first direction is the gradient itself.
    grads = random(0)
    none = changed(rules__matrix__beta=0.0, rules__matrix__nesterov=False)
    plain = build(none, STRUCTS, matrix_specs=SPECS)
    first, _ = optimizer.tx.update(grads, state, params)
    expected, _ = plain.tx.update(grads, plain.tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, first, expected)
    del ramp["end_value"]
    found = faults(changed(rules__matrix__beta=ramp))
    assert "optim.rules.matrix (muon)" in found and "end_value" in found


def test_no_match_lists_paths_and_shapes():
    message = faults(changed(rules__rest__match="embed"))
    for text in ("blocks/0/mlp/bias (6,)", "head/kernel (4, 10)", "catch-all"):
        assert text in message
    assert "embed/table" not in message


def test_rule_without_parameter():
    message = faults(changed(rules__rest__match="nothing", rules__matrix__match="."))
    assert "optim.rules.rest (match='nothing') matches no parameter of" in message
    extra = {"match": "kernel", "name": "lion", "learning_rate": 0.1}
    message = faults(changed(order=("matrix", "rest", "late"), rules__late=extra))
    assert "matches only parameters that the earlier rules matrix, rest take" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules__rest__name": "adanw"}, "did you mean 'adamw'"),
        (
            {"rules__rest__learnig_rate": 0.1},
            "did you mean optim.rules.rest.learning_rate",
        ),
        (
            {"rules__matrix__weight_decy": 0.1},
            "did you mean optim.rules.matrix.weight_decay",
        ),
        ({"rules__matrix__fallback": 0.1}, "unknown key optim.rules.matrix.fallback"),
        ({"rules__matrix__learning_rate": None}, "optim.rules.matrix has no learning"),
        ({"rules__rest__match": None}, "optim.rules.rest has no match"),
        ({"rules__rest__match": "("}, "no regex"),
        ({"order": ("matrx", "rest")}, "did you mean 'matrix'"),
        ({"order": ("rest",)}, "optim.rules.matrix is not in optim.order"),
        ({"order": ("matrix", "rest", "rest")}, "names a rule twice"),
        ({"whole_tree__clp": 1.0}, "did you mean optim.whole_tree.clip"),
        ({"rules__matrix__scale": "jordn"}, "did you mean 'jordan'"),
        ({"rules__rest__name": "nowhere.at.all:f"}, "cannot be imported"),
        ({"rules__rest__name": "optax:nothing_like_it"}, "cannot be imported"),
        ({"rules__rest__name": "optax:__name__"}, "is not a function"),
    ],
)
def test_faults_name_the_key_and_the_nearest(changes, message):
    assert message in faults(changed(**changes))


def test_all_faults_come_at_once():
    message = faults(
        changed(rules__rest__name="adanw", rules__matrix__steps_=3, whole_tree__clp=1.0)
        | {"train": {"schedule": {"name": "cosin"}}},
        specs={"blocks/0/qkw/kernel": MatrixSpec((0,), (1,))},
    )
    assert message.startswith("5 faults")
    for text in ("adanw", "steps_", "clp", "cosin", "blocks/0/qkv/kernel"):
        assert text in message


@pytest.mark.parametrize(
    ("match", "path", "reason"),
    [
        ("embed|mlp/kernel", "embed/table", "'embed'"),
        ("kernel", "head/kernel", "'head'"),
        ("blocks", "blocks/0/mlp/bias", "'bias'"),
    ],
)
def test_spectral_rule_on_what_is_no_hidden_matrix(match, path, reason):
    message = faults(changed(rules__matrix__match=match))
    assert f"takes {path}" in message
    assert reason in message


def test_allow_any_path_opens_names_but_not_shapes():
    c = changed(rules__matrix__match="kernel", rules__matrix__allow_any_path=True)
    table = build(c, STRUCTS, matrix_specs=SPECS).table
    assert {r.path for r in table if r.rule == "matrix"} >= {"head/kernel"}
    message = faults(
        changed(rules__matrix__match="blocks", rules__matrix__allow_any_path=True)
    )
    assert "bias (6,), which has no matrix view" in message


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 4, 4), "no matrix view"), ((1, 4), "side of 1")],
)
def test_spectral_rule_on_what_is_no_matrix(shape, message):
    rule = {"match": ".", "name": "muon", "learning_rate": 0.1}
    c = {"optim": {"order": ("all",), "rules": {"all": rule}}}
    params = {"mlp": jax.ShapeDtypeStruct(shape, "float32")}
    assert message in faults(c, None, params)


def test_clip_before_scale_free_rules_warns_and_says_where_it_acts():
    with pytest.warns(jopt.JoptWarning, match=r"matrix \(muon\).*on rest \(adamw\)"):
        build(changed(whole_tree__clip=1.0), STRUCTS, matrix_specs=SPECS)


def test_clip_before_rules_that_see_scale_is_silent_and_acts():
    rule = {"match": ".", "name": "sgd", "learning_rate": 1.0}
    c = {"optim": {"order": ("all",), "rules": {"all": rule}}}
    c["optim"]["whole_tree"] = {"clip": 1.0}
    tx = build(c, STRUCTS).tx
    params = random(0)
    updates, _ = tx.update(random(1), tx.init(params), params)
    assert float(jopt.tree.global_norm(updates)) == pytest.approx(1.0, rel=1e-5)


def test_own_constructor_and_own_entry(monkeypatch):
    def scaled(learning_rate, *, gain=1.0):
        return optax.sgd(lambda step: gain * learning_rate(step))

    module = types.ModuleType("user_module")
    module.scaled = scaled
    module.entry = Entry(scaled, scale_free=True, needs=frozenset({"value"}))
    monkeypatch.setitem(sys.modules, "user_module", module)
    c = changed(rules__rest__name="user_module:scaled", rules__rest__gain=2.0)
    optimizer = build(c, STRUCTS, matrix_specs=SPECS)
    params, grads = random(0), random(1)
    updates, _ = optimizer.tx.update(grads, optimizer.tx.init(params), params)
    np.testing.assert_allclose(
        updates["embed"]["table"], -0.006 * grads["embed"]["table"], rtol=1e-6
    )
    assert optimizer.needs == frozenset()

    optimizer = build(
        changed(rules__rest__name="user_module:entry"), STRUCTS, matrix_specs=SPECS
    )
    assert optimizer.needs == {"value"}
    assert "user_module:entry" in explain(optimizer)


def test_tree_shaped_extra_args_reach_a_rule_masked(monkeypatch):
    seen = []

    def spying(learning_rate):
        def update(updates, state, params=None, *, half_difference, **_):
            seen.append(
                jax.tree.map(lambda u, h: h.shape == u.shape, updates, half_difference)
            )
            return updates, state

        return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)

    module = types.ModuleType("user_module")
    module.spying = spying
    monkeypatch.setitem(sys.modules, "user_module", module)
    tx = build(
        changed(rules__rest__name="user_module:spying"), STRUCTS, matrix_specs=SPECS
    ).tx
    params = random(0)
    tx.update(random(1), tx.init(params), params, half_difference=random(2), unknown=1)
    assert jax.tree.leaves(seen) == [True] * 3


def test_table_rows_and_state_bytes():
    optimizer = build(
        changed(rules__matrix__scale="jordan"), STRUCTS, matrix_specs=SPECS
    )
    rows = {row.path: row for row in optimizer.table}
    qkv = rows["blocks/0/qkv/kernel"]
    assert qkv.matrices == ((1, 4, 4), (1, 4, 2), (1, 4, 2))
    assert qkv.scale == (1.0, 1.0, 1.0)
    assert rows["blocks/0/mlp/kernel"].scale == (pytest.approx(1.5**0.5),)
    assert qkv.state_bytes == 4 * 32
    assert rows["embed/table"].state_bytes == 2 * 4 * 40
    assert rows["embed/table"].matrices == ()

    state = jax.eval_shape(optimizer.tx.init, STRUCTS)
    shared = sum(size_bytes(x) for x in jax.tree.leaves(state) if x.ndim == 0)
    assert sum(r.state_bytes for r in optimizer.table) == size_bytes(state) - shared


def test_state_bytes_tell_nested_paths_apart():
    params = {"kernel": jnp.zeros(3), "a": {"kernel": jnp.zeros(5)}}
    rule = {"match": ".", "name": "lion", "learning_rate": 0.1}
    c = {"optim": {"order": ("all",), "rules": {"all": rule}}}
    rows = {row.path: row.state_bytes for row in build(c, params).table}
    assert rows == {"kernel": 12, "a/kernel": 20}


def test_explain_is_aligned_and_totals():
    text = explain(build(config(), STRUCTS, matrix_specs=SPECS))
    rows, totals = text.split("\n\n")
    lines = rows.splitlines()
    assert lines[0].split() == [
        *("parameter", "shape", "dtype", "rule", "optimizer", "matrices", "scale"),
        *("state", "bytes"),
    ]
    assert len({len(line) for line in lines}) == 1
    assert "4x4 + 4x2 + 4x2" in rows
    assert totals.splitlines()[-1].split() == ["total", "5", "142", "912"]


def constructed(name):
    """An optimizer, parameters, and the extra args that it needs."""
    entry = CATALOG[name]
    # Whoever sets its own step size takes a first one, and no schedule.
    rate = 0.1 if entry.whole_tree else lambda step: 0.1
    tx = optax.with_extra_args_support(entry.constructor(rate))
    params = {"w": jnp.ones((2, 3))}
    available = {"half_difference": params, "grad_fn": lambda p: p}
    needs = entry.needs_of({})
    return tx, params, {k: x for k, x in available.items() if k in needs}


@pytest.mark.parametrize("name", CATALOG)
def test_catalog_constructors_take_what_rules_pass(name):
    tx, params, extra = constructed(name)
    update = functools.partial(tx.update, **extra)
    found, _ = jax.eval_shape(update, params, tx.init(params), params)
    assert found["w"].shape == (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOG)
def test_catalog_constructors_descend(name):
    tx, params, extra = constructed(name)
    state, update = tx.init(params), jax.jit(functools.partial(tx.update, **extra))
    for _ in range(2):  # SOAP only looks in the first step.
        updates, state = update(params, state, params)
    assert float(jnp.sum(updates["w"])) < 0


def test_numbers_in_a_config_may_be_traced():
    params, grads = random(0), random(1)

    def first_update(rate, decay, clip):
        c = changed(
            rules__matrix__learning_rate=rate,
            rules__rest__name="sgd",
            rules__matrix__weight_decay=decay,
            whole_tree__clip=clip,
        )
        tx = build(c, STRUCTS, matrix_specs=SPECS).tx
        return tx.update(grads, tx.init(params), params)[0]

    rates = jnp.array([0.01, 0.02])
    with pytest.warns(jopt.JoptWarning):
        lanes = jax.jit(jax.vmap(first_update))(rates, 10 * rates, 100 * rates)
    with pytest.warns(jopt.JoptWarning):
        one = jax.jit(first_update)(0.02, 0.2, 2.0)
    jax.tree.map(
        lambda lane, x: np.testing.assert_allclose(lane[1], x, atol=1e-6), lanes, one
    )


def test_the_factor_on_learning_rates_is_given_with_each_update():
    """The step is in proportion to it, and the count of the schedule has no say."""
    params = tree(jnp.ones)
    c = changed(rules__matrix__compute_dtype="float32")
    c["train"] = {"steps": 4, "adaptive_batch": {"enabled": True}}
    optimizer = build(c, params, matrix_specs=SPECS)
    assert optimizer.needs == {"learning_rate_factor"}
    plain = build(c | {"train": {"steps": 4}}, params, matrix_specs=SPECS)
    state = optimizer.tx.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(plain.tx.init(params))

    @jax.jit
    def step(factor):
        given = {"learning_rate_factor": factor}
        return optimizer.tx.update(params, state, params, **given)[0]

    whole, half = step(jnp.float32(1.0)), step(jnp.float32(0.5))
    expected, _ = jax.jit(plain.tx.update)(params, state, params)
    for path, update in named_leaves(whole).items():
        np.testing.assert_allclose(update, named_leaves(expected)[path], rtol=1e-5)
        np.testing.assert_allclose(0.5 * update, named_leaves(half)[path], rtol=1e-6)


def test_the_table_says_in_which_geometry_a_parameter_is_measured():
    c = changed(rules__rest__name="signum")
    rows = {row.path: row for row in build(c, STRUCTS, matrix_specs=SPECS).table}
    assert rows["blocks/0/qkv/kernel"].geometry == "spectral"
    assert rows["blocks/0/qkv/kernel"].spec == SPECS["blocks/0/qkv/kernel"]
    assert rows["embed/table"].geometry == "sign"
    assert rows["blocks/0/mlp/bias"].spec is None
