"""The config of CLIP: its counts, its names of torch, and what its tower computes."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import struct
from pathlib import Path

import jax
import numpy as np
import pytest

from jopt.__main__ import main
from jopt.data._folders import open_folders
from jopt.errors import DataError
from jopt.models import VITS, vit
from jopt.studies.merging import clip
from jopt.weights import (
    Leaf,
    NamedWeights,
    new_weights,
    open_weights,
    rules_from,
    torch_layout,
)
from jopt.weights._weights import nested

FULL = Path(__file__).parents[2] / "configs/full/merge_clip.py"
CONFIG = runpy.run_path(str(FULL))
TOWER = 87_849_216


def tower_shapes(width: int, layers: int, features: int) -> dict[str, tuple[int, ...]]:
    """Shapes of open_clip's visual tower with patches of 32 on 224 x 224."""
    norm = {"weight": (width,), "bias": (width,)}
    block = {
        **{f"ln_{n}.{k}": shape for n in (1, 2) for k, shape in norm.items()},
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
    }
    tower = {
        "class_embedding": (width,),
        "positional_embedding": (50, width),
        "proj": (width, features),
        "conv1.weight": (width, 3, 32, 32),
        **{f"ln_pre.{k}": shape for k, shape in norm.items()},
        **{f"ln_post.{k}": shape for k, shape in norm.items()},
        **{
            f"transformer.resblocks.{i}.{k}": shape
            for i in range(layers)
            for k, shape in block.items()
        },
    }
    return {f"visual.{name}": shape for name, shape in tower.items()}


def hf_shapes(width: int, layers: int, features: int) -> dict[str, tuple[int, ...]]:
    """The same under the other names."""
    found = {}
    for name, shape in tower_shapes(width, layers, features).items():
        name = name.removeprefix("visual.")
        if ".in_proj_" in name:
            start, kind = name.split("in_proj_")
            parts = [f"{start}{part}_proj.{kind}" for part in "qkv"]
            shape = (shape[0] // 3, *shape[1:])
        else:
            parts = [name]
        if name == "proj":
            shape = shape[::-1]
        found |= dict.fromkeys(map(_hf_name, parts), shape)
    return found


def _hf_name(name: str) -> str:
    special = {
        "class_embedding": "vision_model.embeddings.class_embedding",
        "positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "proj": "visual_projection.weight",
    }
    if name in special:
        return special[name]
    for old, new in (
        ("transformer.resblocks", "encoder.layers"),
        ("ln_pre", "pre_layrnorm"),
        ("ln_post", "post_layernorm"),
        (".ln_", ".layer_norm"),
        (".attn.", ".self_attn."),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ):
        name = name.replace(old, new)
    return f"vision_model.{name}"


def write_empty(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A file of float32 zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize(
    ("argument", "shapes", "more", "said"),
    [
        ("tsv_m", tower_shapes, {}, "leaf by leaf; each file is read 1x"),
        ("ties,hf", hf_shapes, {}, "two passes|2 passes"),
        ("iso_c,whole,search", tower_shapes, {"logit_scale": ()}, "by search"),
    ],
)
def test_the_dry_run_counts_the_tower(
    argument, shapes, more, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("clip").mkdir()
    write_empty(Path("clip/base.safetensors"), {**shapes(768, 12, 512), **more})
    for task in clip.TASKS:
        os.link("clip/base.safetensors", f"clip/{task}.safetensors")
    assert main(["merge", f"--config={FULL}:{argument}", "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert f"{TOWER:,} numbers" in text
    assert re.search(said, text), text
    assert len(re.findall(r"^model ", text, re.M)) == 8


def test_files_that_are_not_there_are_all_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["merge", f"--config={FULL}", "--dry_run"]) == 2
    said = capsys.readouterr().err
    for name in ("base", *clip.TASKS):
        assert f"clip/{name}.safetensors" in said


WIDTH, LAYERS, FEATURES = 24, 2, 5


@pytest.fixture(scope="module")
def weights():
    """Random ones, under the names of torch."""
    rng = np.random.default_rng(0)
    shapes = tower_shapes(WIDTH, LAYERS, FEATURES)
    return {
        name: rng.normal(size=shape, scale=0.3).astype(np.float32)
        for name, shape in shapes.items()
    }


def in_numpy(weights, x_BCHW):
    """Features (B, F), written after the torch modules."""
    p = {name.removeprefix("visual."): np.float64(x) for name, x in weights.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        centred /= np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return centred * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    batch = len(x_BCHW)
    tiles = x_BCHW.reshape(batch, 3, 7, 32, 7, 32)
    x = np.einsum("bcihjw,dchw->bijd", tiles, p["conv1.weight"])
    x = x.reshape(batch, 49, WIDTH)
    first = np.broadcast_to(p["class_embedding"], (batch, 1, WIDTH))
    x = np.concatenate([first, x], axis=1) + p["positional_embedding"]
    x = norm(x, "ln_pre")
    for i in range(LAYERS):
        block = f"transformer.resblocks.{i}"
        y = norm(x, f"{block}.ln_1")
        fused = y @ p[f"{block}.attn.in_proj_weight"].T
        fused += p[f"{block}.attn.in_proj_bias"]
        q, k, v = fused.reshape(batch, 50, 3, 12, -1).transpose(2, 0, 3, 1, 4)
        products = q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH / 12)
        shares = np.exp(products - products.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = (shares @ v).transpose(0, 2, 1, 3).reshape(batch, 50, WIDTH)
        x = x + linear(mixed, f"{block}.attn.out_proj")
        y = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        y = y / (1 + np.exp(-1.702 * y))
        x = x + linear(y, f"{block}.mlp.c_proj")
    return norm(x[:, 0], "ln_post") @ p["proj"]


def small_model():
    sizes = {"embed_dim": WIDTH, "num_layers": LAYERS, "num_classes": FEATURES}
    return vit({**VITS["clip_b32"], **sizes})


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    leaves = {name: Leaf(x.shape, x.dtype) for name, x in arrays.items()}
    with new_weights(path, leaves) as writer:
        for name, array in arrays.items():
            writer.write(name, array)


def read_params(path: Path):
    """Nested dicts as `search.evaluate` is given them."""
    rules = rules_from(CONFIG["names"]("open_clip", whole=False))
    file = open_weights(path)
    named = NamedWeights(file, torch_layout(file.leaves, rules))
    params = nested({leaf: named.read(leaf) for leaf in named.leaves})
    named.close()
    return params


def test_accuracies_are_those_of_the_torch_modules(weights, tmp_path, monkeypatch):
    """Through names, model, folders of images and heads, against NumPy."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clip, "_model", small_model)
    expected = []
    for task in clip.TASKS:
        for name in ("a", "b"):
            folder = Path("clip/images", task, name)
            folder.mkdir(parents=True)
            for number in range(20):
                # Smooth enough to survive nothing but a copy: 224 pixels stay as is.
                pixels = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
                picture = image.fromarray(pixels.repeat(32, 0).repeat(32, 1))
                picture.save(folder / f"{number:02}.png")
        texts = rng.normal(size=(2, FEATURES)).astype(np.float32)
        write(Path("clip/heads", f"{task}.safetensors"), {"weight": texts})
        records = open_folders(Path("clip/images", task))
        chosen = np.random.RandomState(0).permutation(40)[:4]
        light = np.stack([records[int(i)]["image"] for i in chosen]) / 255
        centred = (light - clip._VIEW.pixels.mean) / clip._VIEW.pixels.std
        scores = in_numpy(weights, centred.transpose(0, 3, 1, 2)) @ texts.T
        right = scores.argmax(-1) == [records[int(i)]["label"] for i in chosen]
        expected.append(right.mean())
    write(Path("clip/base.safetensors"), weights)
    found = clip.validation_accuracies(read_params(Path("clip/base.safetensors")), {})
    np.testing.assert_allclose(found, expected)
    assert 0 < np.mean(expected) < 1


def test_the_tower_is_the_function_of_the_torch_modules(weights, tmp_path):
    write(tmp_path / "base.safetensors", weights)
    tower = clip.tower_params(read_params(tmp_path / "base.safetensors"))
    x = np.random.default_rng(2).normal(size=(2, 224, 224, 3)).astype(np.float32)
    model = small_model()
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0), None)
    assert jax.tree.map(np.shape, tower) == jax.tree.map(np.shape, shapes)
    found, *_ = jax.jit(model.apply, static_argnames="train")(
        tower, {}, {"inputs": x}, key=None, train=False
    )
    expected = in_numpy(weights, x.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_heads_and_images_that_are_missing_are_named(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("clip/base.safetensors"), weights)
    params = read_params(Path("clip/base.safetensors"))
    with pytest.raises(DataError, match=r"clip/heads/cars.safetensors does not exist"):
        clip.validation_accuracies(params, {})
    write(Path("clip/heads/cars.safetensors"), {"weight": np.ones((2, 5), np.float32)})
    Path("clip/images/cars").mkdir(parents=True)
    with pytest.raises(DataError, match="has no images; a folder for each class"):
        clip.validation_accuracies(params, {})
