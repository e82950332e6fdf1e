"""Files bring back what was written, say when they are damaged, and replace nothing."""

from __future__ import annotations

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jopt.errors import CheckpointError, ConfigError, DamagedCheckpointError
from jopt.training._checkpoints import Checkpoints
from jopt.weights import Leaf, new_weights, open_weights
from jopt.weights._weights import fingerprint


def mixed_leaves() -> dict[str, np.ndarray]:
    """Types and shapes that a file must bring back bit for bit."""
    return {
        "a/kernel": np.array([[1.5, -0.0], [np.nan, np.inf]], np.float32),
        "a/half": np.arange(7, dtype=ml_dtypes.bfloat16) / 3,
        "b/wide": np.array([1e300, np.pi]),
        "b/empty": np.zeros((0, 3), np.float32),
        "step": np.array(7, np.int32),
        "flags": np.array([True, False]),
    }


def described(leaves):
    return {name: Leaf(x.shape, x.dtype) for name, x in leaves.items()}


def write(out, leaves, metadata=None, **more):
    with new_weights(out, described(leaves), metadata, **more) as writer:
        for name in reversed(leaves):  # the order is free
            writer.write(name, leaves[name])


def read(path):
    weights = open_weights(path)
    try:
        return {name: weights.read(name) for name in weights.leaves}
    finally:
        weights.close()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape), name
        assert found[name].tobytes() == x.tobytes(), name


@pytest.mark.parametrize(
    "out", ["m.safetensors", "m/model.safetensors.index.json", "m"]
)
def test_every_format_brings_back_every_type_bit_for_bit(tmp_path, out):
    leaves = mixed_leaves()
    if out == "m":
        del leaves["b/empty"]  # Orbax refuses arrays without entries
    write(tmp_path / "new" / out, leaves, {"method": "mean"}, shard_bytes=20)
    assert_same(read(tmp_path / "new" / out), leaves)
    if "/" in out:
        assert_same(read(tmp_path / "new" / "m"), leaves)
        assert len(list((tmp_path / "new" / "m").glob("*.safetensors"))) > 2
    left = [p.name for p in (tmp_path / "new").iterdir()]
    assert left == [out.split("/")[0]], "a temporary name was left behind"


def test_the_library_reads_what_was_written_here(tmp_path):
    leaves = mixed_leaves()
    write(tmp_path / "m.safetensors", leaves, {"method": "mean", "é": "ü"})
    assert_same(load_file(tmp_path / "m.safetensors"), leaves)
    with safe_open(tmp_path / "m.safetensors", framework="np") as opened:
        assert opened.metadata() == {"method": "mean", "é": "ü"}


def test_nothing_is_overwritten_or_left_half_done(tmp_path):
    leaves = {"a": np.ones(3, np.float32)}
    for out in ("m.safetensors", "d/model.safetensors.index.json", "e"):
        write(tmp_path / out, leaves)
        with pytest.raises(ConfigError, match=r"exists; nothing is overwritten"):
            write(tmp_path / out, {"a": np.zeros(3, np.float32)})
        assert_same(read(tmp_path / out), leaves)
    before = sorted(tmp_path.iterdir())
    with (
        pytest.raises(KeyboardInterrupt),
        new_weights(tmp_path / "n.safetensors", described(leaves)),
    ):
        raise KeyboardInterrupt
    with (
        pytest.raises(ConfigError, match=r"'a'.* were not written"),
        new_weights(tmp_path / "n.safetensors", described(leaves)),
    ):
        pass
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("out", ["n.safetensors", "n/model.safetensors.index.json"])
def test_what_appears_meanwhile_is_left_alone(tmp_path, out):
    leaves = {"a": np.ones(3, np.float32)}
    place = tmp_path / out.split("/")[0]
    with (
        pytest.raises(ConfigError, match="has appeared meanwhile"),
        new_weights(tmp_path / out, described(leaves)) as writer,
    ):
        writer.write("a", leaves["a"])
        if "/" in out:
            place.mkdir()
            (place / "mine").write_text("mine")
        else:
            place.write_text("mine")
    mine = place / "mine" if "/" in out else place
    assert mine.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_an_array_of_another_shape_or_type_is_refused(tmp_path):
    leaves = {"a": np.ones(3, np.float32)}
    for other in (np.ones(4, np.float32), np.ones(3)):
        with (
            pytest.raises(ConfigError, match=r"a was to be float32 \(3,\)"),
            new_weights(tmp_path / "m.safetensors", described(leaves)) as writer,
        ):
            writer.write("a", other)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-3],
        lambda data: data[:40],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: data + b"x",
        lambda data: data[:9] + b"\x00" + data[10:],
    ],
)
def test_a_damaged_file_is_named(saved, damage):
    path = saved("m", {"a": np.ones(3, np.float32)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedCheckpointError, match=r"m\.safetensors is damaged"):
        open_weights(path)


def test_a_damaged_index_or_shard_is_named(tmp_path):
    leaves = {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}
    write(tmp_path / "m/model.safetensors.index.json", leaves, shard_bytes=12)
    index = tmp_path / "m/model.safetensors.index.json"
    good = json.loads(index.read_text())
    for places, message in (
        ({**good["weight_map"], "c": "model-00001-of-00002.safetensors"}, "'c'"),
        ({**good["weight_map"], "b": "gone.safetensors"}, "gone.safetensors"),
        ({"a": "../m/model-00001-of-00002.safetensors"}, "is damaged"),
        ([], "is damaged"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(DamagedCheckpointError, match=message):
            open_weights(tmp_path / "m")


def test_a_type_that_numpy_has_not_is_named(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": np.ones(2, ml_dtypes.float8_e4m3fn)}, path)
    with pytest.raises(ConfigError, match=r"w has type F8_E4M3; known are F64, F32"):
        open_weights(path)


def test_what_is_no_parameters_is_said(tmp_path, saved):
    with pytest.raises(ConfigError, match="does not exist"):
        open_weights(tmp_path / "none")
    with pytest.raises(ConfigError, match="holds no parameters"):
        open_weights(tmp_path)
    saved("m", {"a": np.ones(1)})
    with pytest.raises(ConfigError, match=r"holds m\.safetensors and no index"):
        open_weights(tmp_path)


def state(value):
    return {
        "params": {"a": {"kernel": jnp.full((2, 3), value, jnp.bfloat16)}},
        "model_state": {"norm": {"mean": jnp.full(2, value)}},
        "step": jnp.array(5),
    }


@pytest.fixture
def run(tmp_path):
    """A run's folder with two steps, as training leaves it."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    checkpoints = Checkpoints(folder / "checkpoints", keep=2)
    for step in (3, 5):
        checkpoints.save(step, state(float(step)))
    checkpoints.close()
    return folder


def test_a_run_gives_its_newest_step_and_any_other_by_name(run):
    for path, value in (
        (run, 5),
        (run / "checkpoints", 5),
        (run / "checkpoints" / "3", 3),
    ):
        found = read(path)
        assert sorted(found) == ["model_state/norm/mean", "params/a/kernel", "step"]
        assert found["params/a/kernel"].dtype == jnp.bfloat16
        assert (found["params/a/kernel"] == value).all()
    (run / "checkpoints/5/manifest.json").unlink()
    assert (read(run)["params/a/kernel"] == 3).all(), "step 5 was never committed"
    shutil.rmtree(run / "checkpoints/3")
    with pytest.raises(CheckpointError, match="no step that was saved to its end"):
        open_weights(run)


def test_a_flipped_bit_in_a_step_is_found(run):
    file = max(
        (run / "checkpoints/5").rglob("d/*"), key=lambda path: path.stat().st_size
    )
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedCheckpointError, match=r"5 is damaged .*digest differs"):
        open_weights(run)


def test_a_folder_of_orbax_alone(tmp_path):
    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "plain", state(1.0))
        writer.save(tmp_path / "list", {"a": [jnp.ones(2)]})
    assert (read(tmp_path / "plain")["params/a/kernel"] == 1).all()
    with pytest.raises(ConfigError, match="holds a list at a"):
        open_weights(tmp_path / "list")


def test_orbax_reads_what_was_written_here(tmp_path):
    leaves = {"a/kernel": np.arange(3, dtype=jnp.bfloat16), "step": np.array(4)}
    write(tmp_path / "12", leaves, {"method": "mean"})
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore(tmp_path / "12")
        assert reader.metadata(tmp_path / "12").custom_metadata == {"method": "mean"}
    assert tree["a"]["kernel"].dtype == jnp.bfloat16
    assert tree["a"]["kernel"].tolist() == [0, 1, 2]
    assert_same(read(tmp_path / "12"), leaves)


def test_fingerprints_tell_content_apart_and_not_places(tmp_path, saved):
    one, two = saved("one", {"a": np.ones(3)}), saved("two", {"a": np.ones(3)})
    other = saved("other", {"a": np.zeros(3)})
    assert fingerprint(one, [one]) == fingerprint(two, [two])
    assert fingerprint(one, [one]) != fingerprint(other, [other])
    assert fingerprint(tmp_path, [one, two]) != fingerprint(tmp_path, [one, other])
