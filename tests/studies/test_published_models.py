"""Published architectures in the pool: names of torch, counts, images in folders."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jopt.__main__ import main
from jopt.errors import ConfigError
from jopt.models import RESNETS
from jopt.models._vit import cut
from jopt.studies import pretrained
from jopt.studies.model_pool._architectures import build, num_params, shapes_of
from jopt.studies.model_pool._torch_names import NAMED
from jopt.studies.model_pool._user_weights import parse_weights, user_member
from jopt.tree import named_leaves
from jopt.weights import Leaf, NamedWeights, new_weights
from jopt.weights._layout import STATE

IMAGES = (224, 224, 3)
PUBLISHED = {
    "resnet_18": 11_689_512,
    "resnet_50": 25_557_032,
    "vit16_192": 5_717_416,
    "vit16_384": 22_050_664,
}


def norm(name, width, *, running):
    more = {"running_mean": (width,), "running_var": (width,)} if running else {}
    own = {"weight": (width,), "bias": (width,), **more}
    found = {f"{name}.{end}": shape for end, shape in own.items()}
    return found | ({f"{name}.num_batches_tracked": ()} if running else {})


def torch_resnet(depths, expansion):
    """Names and shapes of torchvision's, written down by themselves."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64, running=True)}
    width = 64
    for stage, depth in enumerate(depths):
        inner = 64 * 2**stage
        out = inner * expansion
        for number in range(depth):
            block = f"layer{stage + 1}.{number}"
            kernels = (1, 3, 1) if expansion == 4 else (3, 3)
            ends = (inner, inner, out) if expansion == 4 else (inner, out)
            fan_in = width
            for layer, (k, end) in enumerate(zip(kernels, ends, strict=True), 1):
                shapes[f"{block}.conv{layer}.weight"] = (end, fan_in, k, k)
                shapes |= norm(f"{block}.bn{layer}", end, running=True)
                fan_in = end
            if number == 0 and width != out:
                shapes[f"{block}.downsample.0.weight"] = (out, width, 1, 1)
                shapes |= norm(f"{block}.downsample.1", out, running=True)
            width = out
    return shapes | {"fc.weight": (1000, width), "fc.bias": (1000,)}


def torch_vit(width, blocks=12, tokens=197):
    """Names and shapes of timm's."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "head.weight": (1000, width),
        "head.bias": (1000,),
        **norm("norm", width, running=False),
    }
    for number in range(blocks):
        block = f"blocks.{number}"
        layers = {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }
        for name, (out, fan_in) in layers.items():
            shapes[f"{block}.{name}.weight"] = (out, fan_in)
            shapes[f"{block}.{name}.bias"] = (out,)
        for name in ("norm1", "norm2"):
            shapes |= norm(f"{block}.{name}", width, running=False)
    return shapes


TORCH = {
    "resnet_18": torch_resnet((2, 2, 2, 2), 1),
    "resnet_50": torch_resnet((3, 4, 6, 3), 4),
    "vit16_192": torch_vit(192),
    "vit16_384": torch_vit(384),
}


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_names_of_torch_cover_the_published_models(architecture):
    """No array is made: shapes alone."""
    model = build(architecture, IMAGES, 1000)
    assert num_params(model, IMAGES) == PUBLISHED[architecture]
    float32 = np.dtype("float32")
    leaves = {name: Leaf(shape, float32) for name, shape in TORCH[architecture].items()}
    pieces = NAMED[architecture.partition("_")[0]](architecture, leaves)
    named = NamedWeights(SimpleNamespace(leaves=leaves, path="file"), pieces)
    params, state = shapes_of(model, IMAGES)
    expected = named_leaves(params)
    expected |= {STATE + path: leaf for path, leaf in named_leaves(state).items()}
    found = {path: leaf.shape for path, leaf in named.leaves.items()}
    assert found == {path: leaf.shape for path, leaf in expected.items()}


def test_vit_tensors_go_there_and_back():
    rng = np.random.default_rng(0)
    shapes = torch_vit(64, blocks=1, tokens=5)
    tensors = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    leaves = {name: Leaf(x.shape, x.dtype) for name, x in tensors.items()}
    found = {}
    for piece in NAMED["vit16"]("vit16_64", leaves):
        parts = piece.split(tensors[piece.source])
        np.testing.assert_array_equal(piece.join(parts), tensors[piece.source])
        found |= dict(zip(piece.leaves, parts, strict=True))
    q, k, v = (found[f"blocks/0/attn/{part}/kernel"] for part in "qkv")
    x = rng.normal(size=64)
    fused = tensors["blocks.0.attn.qkv.weight"] @ x
    np.testing.assert_allclose(np.concatenate([x @ q, x @ k, x @ v]), fused)
    image = rng.normal(size=(1, 16, 16, 3)).astype(np.float32)
    kernel = tensors["patch_embed.proj.weight"]
    expected = np.einsum("hwc,dchw->d", image[0], kernel)
    own = np.asarray(cut(image, 16))[0, 0] @ found["patches/kernel"]
    np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)


def folders(root, count=6):
    from PIL import Image

    rng = np.random.default_rng(0)
    for env in ("a", "b", "c"):
        for shade, name in ((40, "dark"), (200, "light")):
            (root / env / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(shade - 40, shade + 40, size=(20, 20, 3))
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(root / env / name / f"{number}.png")
    return root


def test_folders_need_weights_and_are_listed(tmp_path, capsys):
    root = folders(tmp_path / "images")
    with pytest.raises(ConfigError, match=r"--data_root.*--weights"):
        pretrained.configured("full", [f"--data_root={root}"])
    file = tmp_path / "vit.safetensors"
    shapes = torch_vit(64, tokens=5)
    leaves = {name: Leaf(s, np.dtype("float16")) for name, s in shapes.items()}
    with new_weights(file, leaves) as writer:
        for name, leaf in leaves.items():
            writer.write(name, np.zeros(leaf.shape, leaf.dtype))
    flags = [f"--data_root={root}", "--side=32", f"--weights=vit16_64:{file}"]
    code = main(["study", "pretrained", "--size=full", "--dry_run", *flags])
    out = capsys.readouterr().out
    assert code == 0
    model = build("vit16_64", (32, 32, 3), 2)
    assert f"{num_params(model, (32, 32, 3)):,}" in out
    assert "3 environments, 2 classes, images 32 x 32 x 3" in out
    code = main(["study", "pretrained", "--dry_run", *flags, "--task=pacs"])
    assert code == 2
    assert "pacs has 4 environments" in capsys.readouterr().err


@pytest.fixture
def narrow_resnet(monkeypatch):
    """Two narrow blocks under the name of ResNet-18, which itself trains too long."""
    build.cache_clear()
    monkeypatch.setitem(RESNETS, "18", {"depths": (1, 1), "width": 8})
    yield
    build.cache_clear()


@pytest.mark.slow
def test_own_weights_on_images_in_folders(narrow_resnet, tmp_path):
    """BatchNorm's statistics are those of the file, and the command goes to its end."""
    root = folders(tmp_path / "images", count=10)
    model = build("resnet_18", (32, 32, 3), 1000)
    example = {"inputs": np.zeros((1, 32, 32, 3), np.float32)}
    params, state = model.init(jax.random.key(0), example)
    state = jax.tree.map(lambda x: x + 0.25, state)  # not those of a new model
    arrays = {
        **{f"params/{path}": np.asarray(x) for path, x in named_leaves(params).items()},
        **{STATE + path: np.asarray(x) for path, x in named_leaves(state).items()},
    }
    file = tmp_path / "r.safetensors"
    leaves = {name: Leaf(x.shape, x.dtype) for name, x in arrays.items()}
    with new_weights(file, leaves) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    given = f"resnet_18:{file}"
    statistics = user_member(parse_weights(given), (32, 32, 3), 2).network.state
    for path, x in named_leaves(state).items():
        np.testing.assert_array_equal(named_leaves(statistics)[path], x)
    flags = [
        *(f"--data_root={root}", "--side=32", f"--weights={given}"),
        *(f"--workdir={tmp_path / 'study'}", f"--pool={tmp_path / 'pool'}"),
    ]
    assert main(["study", "pretrained", "--size=smoke", *flags]) == 0
    assert "resnet_18" in (tmp_path / "study" / "rows.csv").read_text()
    (card,) = (tmp_path / "pool").glob("own-*/card.md")
    assert "unknown" in card.read_text()
