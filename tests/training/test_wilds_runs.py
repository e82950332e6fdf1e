"""Runs on WILDS: the figure that a set is judged by, of its test environments."""

from __future__ import annotations

import csv
import dataclasses

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jopt.data.environments import SCHEMES
from jopt.data.environments._wilds_schemes import IDENTITIES
from jopt.models import TextEncoderConfig
from jopt.training import environment_presets, presets
from jopt.training._evaluation import totals
from jopt.training._plan import make_plan, resolve

RANDOM = np.random.default_rng(0)


def reviews():
    """Of 16 users 5 reviews each."""
    return [
        {"reviewerID": f"user {n // 5:02}", "overall": RANDOM.integers(1, 6)}
        | {"reviewText": f"review {n}"}
        for n in range(16 * 5)
    ]


def comments():
    """Of each identity and label 4 to train on, 2 to validate on, 5 for the test."""
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 5
    return [
        {"comment_text": f"{who} {n} {toxicity}", "toxicity": toxicity, "split": split}
        | {name: int(name == who) for name in IDENTITIES}
        for who in IDENTITIES
        for toxicity in (0, 1)
        for n, split in enumerate(splits)
    ]


CASES = {
    "amazon": (reviews, 16, lambda x: np.percentile(x, 10), "accuracy_10th_percentile"),
    "civilcomments": (comments, None, np.min, "worst_accuracy"),
}


def planned(name, root):
    make, environments, _, _ = CASES[name]
    rows = make()
    with (root / SCHEMES[name].table).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    config = environment_presets.over_environments(
        name, "erm", 1, root=str(root), environments=environments
    )
    classes = len(SCHEMES[name].classes)
    model = TextEncoderConfig(
        num_classes=classes, num_layers=1, embed_dim=8, num_heads=2, pool="mean"
    )
    config.model = ConfigDict(dataclasses.asdict(model))
    config.train.compute_dtype = "float32"
    config.eval.batch_size = 8
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", "sgd", 0.1)
    return make_plan(resolve(config))


@pytest.mark.parametrize(
    "name", [pytest.param("amazon", marks=pytest.mark.slow), "civilcomments"]
)
def test_test_environments_are_judged_as_papers_do(name, tmp_path):
    plan = planned(name, tmp_path)
    state = plan.init()
    drawn = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(
        lambda x: x + jax.random.normal(next(drawn), x.shape), state.params
    )
    state = state._replace(params=params)
    source = plan.task.load(plan.config)
    added = totals(plan.sums, state, source.evaluation(whole=True), plan.put)
    found = plan.task.results(added)

    @jax.jit
    def logits_of(inputs):
        batch = {"inputs": inputs}
        return plan.model.apply(params, {}, batch, key=None, train=False)[0]

    each = []
    for e in source.test_envs:
        env = source.task.envs[e].source
        batch = env.rows(np.arange(env.size))
        predicted = np.asarray(logits_of(batch["inputs"])).argmax(-1)
        each.append(float((predicted == batch["targets"]).mean()))
    _, _, figure, key = CASES[name]
    assert len(set(each)) > 1
    assert found[f"eval/ood/{key}"] == pytest.approx(figure(each))
    assert f"{figure(each):.4f} OOD " in plan.task.describe(found)
    if name == "civilcomments":
        # What is published is held out: 2 comments of each of the 16 groups.
        assert found["eval/examples"] == 16 * 2
