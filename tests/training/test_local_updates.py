"""`config.local_updates`: a run whose replicas train apart and meet now and then."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from jopt.errors import ConfigError, JoptWarning
from jopt.training import _kept_rows, presets
from jopt.training._checkpoints import Checkpoints
from jopt.training._config import default_config
from jopt.training._config_checks import validate
from jopt.training._explain import explain
from jopt.training._flags import load_config
from jopt.training._plan import make_plan, resolve
from jopt.training._source import ExampleSource
from jopt.tree import digest, named_leaves

R, H = 4, 4


def small(name="diloco", *, momentum=0.9, **own):
    """A perceptron on digits, four simulated replicas that meet every four steps."""
    config = presets.digits()
    config.model.update(hidden_dim=8, num_layers=1)
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(".*", "optax:sgd", 0.1, momentum=momentum)
    config.train.update(steps=10, batch_size=16, compute_dtype="float32")
    config.monitor.every_steps = 0
    if name != "none":
        config.local_updates.update({"name": name, "replicas": R, "period": H, **own})
    return config


def batches(plan, first=0, last=None, spoilt=()):
    """Batches of random images by step; the rows of some (step, replica) are NaN."""
    steps = plan.config.train.steps if last is None else last
    for step in range(first, steps):
        random = np.random.default_rng(step)
        inputs = random.normal(size=(16, 8, 8, 1)).astype(np.float32)
        for at, replica in spoilt:
            if at == step:
                inputs[4 * replica : 4 * replica + 4] = np.nan
        yield plan.put(
            {
                "inputs": inputs,
                "targets": random.integers(0, 10, 16).astype(np.int32),
                "mask": np.ones(16, np.float32),
                "domain": np.zeros(16, np.int32),
            }
        )


def train(plan, state=None, **chosen):
    """The last state, and what each step says of itself."""
    state, records = plan.init() if state is None else state, []
    for batch in batches(plan, int(state.step), **chosen):
        state, metrics = plan.step_of(1, int(state.step))(state, batch)
        records.append({name: float(x) for name, x in plan.read(metrics).items()})
    return state, records


@functools.cache
def planned(*args, **own):
    return make_plan(resolve(small(*args, **own)))


def gap(a, b):
    a, b = named_leaves(a), named_leaves(b)
    assert a.keys() == b.keys()
    return max(float(np.max(np.abs(a[k] - b[k]))) for k in a)


@pytest.mark.slow
def test_one_step_apart_is_the_data_parallel_run():
    """Property 1, over ten steps of SGD; measured 6e-8."""
    alone, apart = (
        planned("none", momentum=0.0),
        planned("local_sgd", period=1, momentum=0.0),
    )
    one, plain = train(alone)
    many, records = train(apart)
    assert gap(alone.model_of(one).params, apart.model_of(many).params) < 1e-6
    assert records[-1]["train/loss"] == pytest.approx(plain[-1]["train/loss"], abs=1e-6)
    assert records[-1]["train/examples"] == 16
    assert int(many.cursor) == int(one.cursor) == 160


@pytest.mark.slow
def test_palsgd_without_pulls_is_diloco_to_the_bit():
    pulled = planned("palsgd", probability=0.0, outer_learning_rate=0.7)
    plain = planned("diloco")
    ends = [plan.model_of(train(plan)[0]).params for plan in (pulled, plain)]
    assert digest(ends[0]) == digest(ends[1])


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("palsgd", {"probability": 0.5}),
        pytest.param("post_local_sgd", {"warmup_steps": 3}, marks=pytest.mark.slow),
        pytest.param("slowmo", {}, marks=pytest.mark.slow),
        pytest.param(
            "streaming_diloco",
            {"delay": 1, "compressor": "int4"},
            marks=pytest.mark.slow,
        ),
        pytest.param("noloco", {}, marks=pytest.mark.slow),
        pytest.param("eager_diloco", {}, marks=pytest.mark.slow),
    ],
)
def test_a_run_resumed_within_a_round_is_the_unbroken_one(name, own, tmp_path):
    """Property 10, at inner step 7 of rounds of 4, through files."""
    plan = planned(name, **own)
    middle, _ = train(plan, last=7)
    store = Checkpoints(tmp_path, keep=1)
    store.save(7, middle)
    end, records = train(plan, middle)
    again, _ = train(plan, store.restore(7, plan.shapes))
    store.close()
    assert digest(end) == digest(again)
    first = {path: x[0] for path, x in named_leaves(end.params).items()}
    for path, leaf in named_leaves(end.params).items():
        assert np.array_equal(leaf, np.broadcast_to(first[path], leaf.shape)), path
    assert gap(plan.model_of(end).params, first) == 0, "the run ends with a sync"
    assert all(np.isfinite(r["local_updates/drift"]) for r in records)


def test_records_say_what_replicas_do():
    plan = planned("palsgd", probability=0.5)
    _, records = train(plan)
    took = [r["local_updates/gradients"] for r in records]
    assert 0 < sum(took) < R * len(took)
    for record, number in zip(records, took, strict=True):
        assert ("train/loss" in record) == (number > 0)
        assert record["local_updates/drift"] >= 0
    rounds = [r["local_updates/rounds"] for r in records]
    # After steps 4 and 8, and at the end of the run.
    assert rounds == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3]
    count = sum(x.size for x in jax.tree.leaves(plan.params))
    assert records[-1]["local_updates/payload_bytes_model"] == 3 * (4 * count + 4)


@dataclasses.dataclass
class Counting:
    """Rows that are their number in the order of the data, a part of each batch."""

    index: int = 0
    count: int = 1

    def batch(self, cursor, rows):
        here = rows // self.count
        return {"row": cursor + self.index * here + np.arange(here)}


def test_rows_of_a_pull_are_kept_for_the_next_gradient(monkeypatch):
    """Each replica reads its blocks in order, and leaves none out."""
    monkeypatch.setattr(_kept_rows, "_CHUNK", 8)
    config = small("palsgd", probability=0.5, pseudo_sync_consumes_batch=False)
    config.local_updates.warmup_steps = 2
    plan = make_plan(resolve(config))
    local, state = plan.replicas.local, plan.init().opt_state
    kept = _kept_rows.KeptRows(Counting(), local, 16)
    read = [[] for _ in range(R)]
    for step in range(30):
        pulled = local.coins(state._replace(count=np.int32(step))) & (step >= 2)
        rows = kept.batch(16 * step, 16)["row"].reshape(R, 4)
        for replica in np.flatnonzero(~np.asarray(pulled)):
            read[replica].extend(rows[replica])
    for replica, found in enumerate(read):
        blocks = np.arange(len(found)).reshape(-1, 4)
        want = blocks % 4 + 16 * (blocks // 4) + 4 * replica
        assert found == want.ravel().tolist()
        assert 4 * 5 < len(found) < 4 * 30
    # A function of the cursor, also where a process has a part of the rows.
    parts = [
        _kept_rows.KeptRows(Counting(i, 2), local, 16, process_index=i, process_count=2)
        for i in range(2)
    ]
    whole = np.concatenate([part.batch(16 * 19, 16)["row"] for part in parts])
    assert whole.tolist() == kept.batch(16 * 19, 16)["row"].tolist()


def test_a_run_says_whether_pulls_consume_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("JOPT_CACHE_DIR", str(tmp_path))
    for consumes, kind in ((None, ExampleSource), (False, _kept_rows.KeptRows)):
        config = small("palsgd", pseudo_sync_consumes_batch=consumes)
        plan = make_plan(resolve(config))
        own = plan.config.local_updates
        assert own.pseudo_sync_consumes_batch is (consumes is None)
        assert isinstance(_kept_rows.source_of(plan), kind)


def test_a_replica_that_is_not_finite_is_dropped():
    plan = planned("diloco")
    end, records = train(plan, spoilt=[(1, 2)])
    assert np.isfinite(records[2]["train/loss"]), "of the three others"
    assert [r["local_updates/dropped_total"] for r in records][2:5] == [0, 1, 1]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(plan.model_of(end).params))


@pytest.mark.slow
def test_a_replica_that_is_not_finite_is_seen_where_it_is_not_dropped():
    kept = planned("diloco", drop_nonfinite=False)
    assert np.isnan(train(kept, spoilt=[(1, 2)], last=3)[1][2]["train/loss"])


def test_a_model_stands_for_the_replicas():
    plan = planned("diloco")
    state, _ = train(plan, last=6)
    expected = {
        "anchor": state.opt_state.anchor,
        "mean": jax.tree.map(lambda x: x.mean(0), state.params),
        "replica0": jax.tree.map(lambda x: x[0], state.params),
    }
    assert gap(expected["anchor"], expected["mean"]) > 0
    for which, params in expected.items():
        found, _ = dataclasses.replace(plan.replicas, eval_params=which).model(state)
        assert gap(found, params) == 0, which
    shapes = jax.tree.map(lambda x: x.shape, plan.model_of(state).params)
    assert shapes == jax.tree.map(lambda x: x.shape, plan.params)


@pytest.mark.slow
def test_statistics_of_batch_norm_are_averaged_at_a_sync():
    config = presets.images("resnet", "digits")
    config.model.update(depths=(1,), width=4)
    config.train.update(batch_size=16, steps=9, compute_dtype="float32")
    config.monitor.every_steps = 0
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(".*", "sgd", 0.1)
    config.local_updates.update(name="local_sgd", replicas=2, period=2)
    plan = make_plan(resolve(config))
    state, _ = train(plan, last=1)
    buffers = named_leaves(state.opt_state.buffers)
    assert any(np.ptp(x, axis=0).max() > 1e-3 for x in buffers.values())
    found = named_leaves(plan.model_of(state).model_state)
    for path, leaf in buffers.items():
        np.testing.assert_allclose(found[path], leaf.mean(0), rtol=1e-6, err_msg=path)
    state, _ = train(plan, state, last=2)
    for path, leaf in named_leaves(state.opt_state.buffers).items():
        assert np.array_equal(leaf[0], leaf[1]), path


@pytest.mark.slow
def test_rates_of_the_rules_stay_apart_under_a_rate_outside():
    """With kappa = 0 and no coin that pulls, PALSGD is DiLoCo at a higher rate."""
    config = small("palsgd", probability=1e-9, strength=0.0, learning_rate=0.1)
    config.optim.order = ("head", "rest")
    del config.optim.rules["all"]
    config.optim.rules.head = presets.rule("head", "optax:sgd", 0.02)
    config.optim.rules.rest = presets.rule(".*", "optax:sgd", 0.1)
    plan = make_plan(resolve(config))
    end = plan.model_of(train(plan)[0]).params
    keys = ("probability", "strength", "learning_rate")
    config.local_updates.update({"name": "diloco", **dict.fromkeys(keys)})
    plain = make_plan(resolve(config))
    assert gap(end, plain.model_of(train(plain)[0]).params) < 1e-6


def test_coins_of_a_run_do_not_depend_on_the_default_kind_of_keys():
    told = []
    for kind in ("threefry2x32", "rbg"):
        with jax.default_prng_impl(kind):
            plan = make_plan(resolve(small("palsgd", probability=0.5)))
            local = plan.replicas.local
            told.append(local.coins(plan.init().opt_state).tolist())
    assert told[0] == told[1]


FAULTS = {
    "did you mean 'diloco'": {"local_updates.name": "dilco"},
    "local_updates.alpha is 1.0, which 'diloco' does not": {"local_updates.alpha": 1.0},
    "local_updates.period is 8, but": {"local_updates.name": "none"},
    "period is 0; expected 1 step": {"local_updates.period": 0},
    "local_updates.replicas is 3; a multiple": {
        "local_updates.replicas": 3,
        "mesh.replica": 2,
    },
    "3 replicas": {"local_updates.replicas": 3},
    "rules of optim are": {"local_updates.name": "muloco"},
    "oracle.name is 'sam'": {"oracle.name": "sam"},
    "train.adaptive_batch.enabled measures": {
        "train.adaptive_batch.enabled": True,
        "train.adaptive_batch.max_batch_size": 128,
    },
    "optim.whole_tree.optimizer is 'adgd'": {"optim.whole_tree.optimizer.name": "adgd"},
    "optim.whole_tree.skip_nonfinite is True": {
        "optim.whole_tree.skip_nonfinite": True
    },
    "monitor.every_steps is 50": {"local_updates.name": "slowmo"},
    "'stability_ratio', which is about one": {
        "monitor.curvature.every_steps": 5,
        "monitor.curvature.what": ("stability_ratio",),
    },
    "warmup_steps is 0; replicas of": {"local_updates.name": "post_local_sgd"},
    "local_updates: shard_outer cuts the anchor": {
        "local_updates.name": "streaming_diloco",
        "local_updates.shard_outer": True,
    },
    "probability is 1.0; it lies in": {
        "local_updates.name": "palsgd",
        "local_updates.probability": 1.0,
        "monitor.every_steps": 0,
    },
    "is 5, and a pull goes at most": {
        "local_updates.name": "palsgd",
        "local_updates.strength": 10.0,
        "train.schedule.name": "constant",
    },
    "an exchange of its own, which": {
        "local_updates.name": "noloco",
        "local_updates.compressor": "int8",
    },
    "outer_warmup is 2000.0; a fraction": {"local_updates.outer_warmup": 2000.0},
    "outer_final is -1.0; 0 or more": {"local_updates.outer_final": -1.0},
    "outer_final is 0.5, which 'local_sgd' does not": {
        "local_updates.name": "local_sgd",
        "local_updates.outer_final": 0.5,
    },
    "top_share is 0.5, which": {"local_updates.top_share": 0.5},
    "warmup_steps is -1; it must be": {"local_updates.warmup_steps": -1},
    "domain_shards is 2, and only text": {"data.domain_shards": 2},
    "domain_shards is 4 and local_updates.replicas 2": {"data.domain_shards": 4},
    "domain_shards 3 does not divide train.batch_size 64": {"data.domain_shards": 3},
    "blocks of a batch that changes its size": {
        "data.domain_shards": 2,
        "train.adaptive_batch.enabled": True,
        "train.adaptive_batch.max_batch_size": 128,
    },
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_name_the_key(message):
    config = presets.digits()
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(".*", "optax:sgd", 0.1)
    config.local_updates.update(name="diloco", replicas=2, period=8)
    config.update_from_flattened_dict(FAULTS[message])
    with pytest.raises(ConfigError) as error:
        validate(config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("match", "near"),
    [("^layer/0/kernel", "layers/0/kernel"), ("^embed/", "head/")],
)
def test_a_pull_match_without_a_parameter_is_refused(match, near):
    with pytest.raises(ConfigError) as error:
        make_plan(resolve(small("palsgd", pull_match=match)))
    message = str(error.value)
    assert f"local_updates.pull_match '{match}' matches none of the" in message
    assert near in message and "correct the regex" in message
    make_plan(resolve(small("palsgd", pull_match="head")))


def test_a_pull_that_is_clamped_is_warned_of_wherever_the_peak_is():
    """That of this table is step 7, between those that would be looked at."""
    config = small("palsgd", learning_rate=1.0)  # .5 / .2: 2.5 at the peak
    config.train.schedule.update(
        name="table", fractions=(0.6, 0.7, 0.8), factors=(0.1, 1.0, 0.1)
    )
    with pytest.warns(JoptWarning, match=r"is 2\.5 at its peak"):
        make_plan(resolve(config))
    config.local_updates.strength = 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error", JoptWarning)
        make_plan(resolve(config))


@pytest.mark.parametrize("name", ["palsgd", "streaming_diloco"])
def test_the_outer_rate_follows_the_steps_of_the_run(name):
    """Up over 5 steps, of which 1 is data-parallel; then by a cosine to a fifth."""
    own = {"outer_learning_rate": 0.5, "outer_momentum": 0.0, "period": 2}
    shape = {"warmup_steps": 1, "outer_warmup": 5.0, "outer_final": 0.2}
    streams = {"delay": 0} if name == "streaming_diloco" else {}
    outer = planned(name, **own, **shape, **streams).replicas.local.settings.outer
    found, state = [], outer.init(np.zeros(1))
    for _ in range(4):  # after 3, 5, 7 and 9 of 10 steps
        update, state = outer.update(np.ones(1), state)
        found.append(-float(update[0]))
    down = [(1 - np.cos(np.pi * (t - 1 - 5) / 5)) / 2 for t in (7, 9)]
    want = [0.5 * 3 / 5, 0.5, *(0.5 * (1 - 0.8 * d) for d in down)]
    np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize("method", ["palsgd", "diloco", "local_sgd", "none"])
@pytest.mark.parametrize("model", ["gpt_neo_8m", "resnet50"])
def test_full_scale_settings_go_with_each_method(model, method, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    config = load_config(f"configs/full/palsgd.py:{model},{method}")
    validate(config)
    if model == "resnet50":
        assert config.optim.rules.all.weight_decay == 3.0517578125e-5
        if method in ("palsgd", "diloco"):
            own = config.local_updates
            assert own.outer_final * own.outer_learning_rate == pytest.approx(0.1)
            assert own.outer_warmup * 90 == pytest.approx(20)  # epochs


def test_defaults_of_the_method_are_written_into_the_config():
    config = small("palsgd")
    config.local_updates.period = None
    own = resolve(config).local_updates
    assert (own.probability, own.strength, own.period) == (0.2, 0.5, 100)
    assert (own.learning_rate, own.outer_momentum, own.mode) == (0.1, 0.9, "vmap")
    assert own.alpha is None and not own.coupled
    assert resolve(default_config()).local_updates.period is None


def test_explain_knows_of_replicas():
    plan = planned("streaming_diloco", fragments=2, delay=1)
    text = explain(plan)
    whole = sum(4 * x.size for x in jax.tree.leaves(plan.params))
    for words in (
        "streaming_diloco: 4 replicas (simulated together by vmap, nothing is sent)",
        "every 4 steps, 2 fragments, received 1 later (overlap: semantic)",
        f"{R * whole:,} bytes of parameters",
        f"{whole:,} bytes of anchor",
        f"a round sends     {whole + 8:,} bytes (model)",
    ):
        assert words in text, text


def test_explain_says_how_replicas_are_simulated():
    plan = make_plan(resolve(small("palsgd", mode="shard_map")))
    words = "palsgd: 4 replicas (simulated in turn by shard_map, nothing is sent)"
    assert words in explain(plan)
