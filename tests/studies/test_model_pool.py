"""The pool of pre-trained models: data, recipes, cards, files, a user's own weights."""

from __future__ import annotations

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.__main__ import main
from jopt.data.environments import pool
from jopt.errors import ConfigError, DamagedCheckpointError, DataError
from jopt.studies import pretrained
from jopt.studies.model_pool._architectures import build
from jopt.studies.model_pool._cards import card_from, card_markdown, make_card
from jopt.studies.model_pool._data import (
    check_disjoint,
    chosen_test_env,
    load_halves,
    numbers_digest,
    reduced,
    share_of,
)
from jopt.studies.model_pool._members import SIZES, checkpoints
from jopt.studies.model_pool._pretraining import Pretraining
from jopt.studies.model_pool._recipes import RECIPES, recipe_batches
from jopt.studies.model_pool._store import (
    CARD,
    WEIGHTS,
    Member,
    member_name,
    read_member,
    write_member,
)
from jopt.studies.model_pool._training import Network
from jopt.studies.model_pool._user_weights import parse_weights, user_member
from jopt.tree import named_leaves
from jopt.weights import Leaf, Rule, new_weights

SHAPE = (8, 8, 1)
PLAIN = Pretraining("mlp_8", 1.0, "none", 2, 4, 1e-3)


@pytest.fixture(scope="module")
def halves():
    return load_halves("rotated_digits", 0)


@pytest.fixture(scope="module")
def network(halves):
    model = build("mlp_8", SHAPE, 10)
    return Network(*model.init(jax.random.key(0), {"inputs": jnp.zeros((1, *SHAPE))}))


# Data.


def test_no_example_is_in_two_parts(halves):
    parts = list(halves.numbers.values())
    for one, other in itertools.combinations(parts, 2):
        assert not set(one) & set(other)
    assert sorted(np.concatenate(parts)) == list(range(1797))
    whole = reduced(pool("digits").inputs)
    upright = halves.task.envs[0]
    np.testing.assert_array_equal(
        upright.source.inputs, whole[halves.numbers["0 degrees"]]
    )
    np.testing.assert_array_equal(
        halves.train.inputs, whole[halves.numbers["pre-training"]]
    )


def test_a_common_example_is_named():
    parts = {"pre-training": np.array([3, 7]), "75 degrees": np.array([1, 7])}
    with pytest.raises(DataError, match=r"pre-training and 75 degrees.*number 7"):
        check_disjoint(parts)
    with pytest.raises(DataError, match="twice in 75 degrees"):
        check_disjoint({"75 degrees": np.array([1, 1])})


def test_shares_are_nested_and_coloured_halves_have_two_channels(halves):
    small, large = (share_of(halves.train, share) for share in (0.1, 0.3))
    assert (small.size, large.size) == (71, 215)
    np.testing.assert_array_equal(small.inputs, large.inputs[:71])
    coloured = load_halves("coloured_digits", 0)
    assert coloured.task.input_shape == coloured.train.inputs.shape[1:] == (8, 8, 2)
    same = coloured.numbers["pre-training"]
    assert numbers_digest(same) == numbers_digest(halves.numbers["pre-training"])


def test_the_test_environment_is_the_last_or_the_one_named(halves):
    assert chosen_test_env(halves.task, None) == 5
    assert chosen_test_env(halves.task, 0) == 0
    with pytest.raises(ConfigError, match=r"--test_env.*5 \(75 degrees\), found 6"):
        chosen_test_env(halves.task, 6)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_functions_of_their_arguments(name, halves):
    recipe, steps = RECIPES[name], range(2, 4)
    first, again = (
        recipe_batches(halves.train, recipe, 10, 5, steps, 4) for _ in range(2)
    )
    plain = recipe_batches(halves.train, RECIPES["none"], 10, 5, steps, 4)
    np.testing.assert_array_equal(first["inputs"], again["inputs"])
    np.testing.assert_allclose(first["targets"].sum(-1), 1, rtol=1e-6)
    changes_inputs = name in ("shift_rotate", "mixup")
    assert changes_inputs == (first["inputs"] != plain["inputs"]).any()
    if name == "smoothing":
        np.testing.assert_allclose(first["targets"].min(-1), 0.01, rtol=1e-6)
        np.testing.assert_allclose(first["targets"].max(-1), 0.91, rtol=1e-6)
    elif name == "mixup":
        assert (np.count_nonzero(first["targets"], -1) <= 2).all()
        assert (np.count_nonzero(first["targets"], -1) == 2).any()
    else:
        np.testing.assert_array_equal(first["targets"], plain["targets"])


# The pool.


def test_the_pool_has_three_axes_and_at_most_36_models():
    found = checkpoints(SIZES["default"])
    assert len(found) == 33
    kinds = [(c.source.share, c.source.recipe, c.factor) for c in found.values()]
    assert sum(kind[:2] == (1, "none") for kind in kinds) == 12
    assert sum(kind[1:] == ("none", 1) for kind in kinds) == 3 * 4
    assert sum(kind[0] == 1 and kind[2] == 1 for kind in kinds) == 3 * 5
    assert all(factor == 1 for *rest, factor in kinds if rest != [1, "none"])


def test_names_tell_what_was_pretrained_on(halves):
    names = {
        member_name(settings, halves)
        for settings in (PLAIN, PLAIN._replace(seed=1), PLAIN._replace(steps=3))
    }
    names.add(member_name(PLAIN, load_halves("rotated_digits", 1)))
    names.add(member_name(PLAIN, load_halves("coloured_digits", 0)))
    assert len(names) == 5
    again = load_halves("corrupted_digits", 0)  # the same images and numbers
    assert member_name(PLAIN, again) == member_name(PLAIN, halves)


def test_a_model_and_its_card_come_back(halves, network, tmp_path):
    name = member_name(PLAIN, halves)
    card = make_card(name, PLAIN, network, halves, "command")
    assert card.n == 719
    assert card.n_params == 64 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10
    assert card.feature_dim == 8
    assert "75 degrees" in card.disjoint_from
    assert card.accuracy == pytest.approx(0.1)  # all classes tie
    folder = tmp_path / name
    (folder / WEIGHTS).mkdir(parents=True)  # as a killed process leaves it
    write_member(folder, Member(network, card))
    found = read_member(folder)
    assert found.card == card
    for path, leaf in named_leaves(network.params).items():
        np.testing.assert_array_equal(named_leaves(found.network.params)[path], leaf)
    assert "719 images of digits" in card_markdown(card)
    record = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**record, "sha256": "0"}))
    with pytest.raises(DamagedCheckpointError, match=r"mlp_8-100-none.*card\.json"):
        read_member(folder)
    del record["licence"]
    with pytest.raises(ConfigError, match=r"card\.json is no model card.*licence"):
        card_from(record, "card.json")


# A user's own weights.


def saved(path, arrays):
    leaves = {name: Leaf(x.shape, x.dtype) for name, x in arrays.items()}
    with new_weights(path, leaves) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    return str(path)


@pytest.fixture(scope="module")
def body(network):
    leaves = named_leaves(network.params)
    return {k: np.asarray(x) for k, x in leaves.items() if not k.startswith("head/")}


def test_own_weights_need_no_head_and_may_have_names_of_torch(body, tmp_path):
    own = saved(tmp_path / "own.safetensors", body)
    found = user_member(parse_weights(f"mlp_8:{own}"), SHAPE, 10)
    for path, array in body.items():
        np.testing.assert_array_equal(named_leaves(found.network.params)[path], array)
    assert found.card.n is None
    assert found.card.name.startswith("own-own-")
    torch = {
        f"net.{path.split('/')[1]}.{end}": x.T.copy()
        for path, x in body.items()
        for end in ("weight" if x.ndim == 2 else "bias",)
    }
    file = saved(tmp_path / "torch.safetensors", torch)
    rules = [Rule(r"net\.(\d)", "linear", r"layers/\1")]
    again = user_member(parse_weights(f"mlp_8:{file}", rules), SHAPE, 10)
    assert again.card.sha256 == found.card.sha256


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("{own}", r"--weights=.*ARCHITECTURE:FILE"),
        ("mlp_8:{folder}/missing.safetensors", r"missing\.safetensors does not exist"),
        ("mpl_8:{own}", "architecture.*mlp"),
        ("cnn_10:{own}", "multiple of 4"),
        ("mlp_16:{own}", r"own\.safetensors.*mlp_16(.|\n)*layers/0/bias .*\(8,\).*16"),
        ("cnn_8:{own}", r"own\.safetensors.*cnn_8(.|\n)*layers/0/conv/bias .*missing"),
        (
            "mlp_8:{less}",
            r"less\.safetensors(.|\n)*layers/1/kernel \(8, 8\) is missing",
        ),
        ("mlp_8:{more}", r"more\.safetensors(.|\n)*extra \(2,\) is unknown"),
    ],
)
def test_what_is_wrong_with_own_weights_is_named(flag, message, body, tmp_path):
    less = {k: x for k, x in body.items() if k != "layers/1/kernel"}
    files = {
        "own": saved(tmp_path / "own.safetensors", body),
        "less": saved(tmp_path / "less.safetensors", less),
        "more": saved(tmp_path / "more.safetensors", {**body, "extra": np.ones(2)}),
    }
    flags = [f"--weights={flag.format(folder=tmp_path, **files)}", "--dry_run"]
    with pytest.raises(ConfigError, match=message):
        pretrained.configured("smoke", flags)


def test_flags(body, tmp_path, capsys):
    own = saved(tmp_path / "own.safetensors", body)
    flags = ["--size=smoke", "--dry_run", f"--weights=mlp_8:{own}"]
    assert main(["study", "pretrained", *flags]) == 0
    assert "5 chunks" in capsys.readouterr().out
    assert main(["study", "pretrained", *flags, flags[-1]]) == 2
    assert "given twice" in capsys.readouterr().err
    names = tmp_path / "names.json"
    names.write_text('[{"match": "a"}]')
    assert main(["study", "pretrained", *flags, f"--names={names}"]) == 2
    assert "names.json" in capsys.readouterr().err
    for flag in ("--task=rotated_letters", "--families=cnn", "--optimizers=sgd"):
        assert main(["study", "pretrained", *flags, flag]) == 2
