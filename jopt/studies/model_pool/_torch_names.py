"""Published names of torch models as those of jopt, for the families that have them.

ResNets as torchvision and timm name them (`layer1.0.conv1.weight`), vision transformers
as timm does (`blocks.0.attn.qkv.weight`). The names are recalled; no published file was
read here. Nothing needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from jopt.models import RESNETS
from jopt.weights import Leaf, Piece, Rule, torch_layout
from jopt.weights._torch_layout import kernel_from_torch, kernel_to_torch

Pieces = Callable[[str, Mapping[str, Leaf]], Sequence[Piece]]


def has_torch_names(names: Sequence[str]) -> bool:
    """Whether a file has the names of torch modules and none of jopt.

    >>> has_torch_names(["fc.weight"]), has_torch_names(["head/kernel"])
    (True, False)
    """
    return any(name.endswith(".weight") for name in names) and not any(
        "/" in name for name in names
    )


def resnet_pieces(architecture: str, leaves: Mapping[str, Leaf]) -> Sequence[Piece]:
    """The tensors of a ResNet; its classifier, `fc`, is `head`.

    Fails: `ConfigError` for tensors that a ResNet of these depths does not have.
    """
    return torch_layout(leaves, list(_resnet_rules(architecture)))


def _resnet_rules(architecture: str) -> Iterator[Rule]:
    settings = RESNETS[architecture.partition("_")[2]]
    basic = settings.get("block", "basic") == "basic"
    yield Rule("conv1", "conv", "stem/conv")
    yield Rule("bn1", "batch_norm", "stem/norm")
    yield Rule("fc", "linear", "head")
    places = [
        (stage, number)
        for stage, depth in enumerate(settings["depths"], 1)
        for number in range(depth)
    ]
    for block, (stage, number) in enumerate(places):
        module = rf"layer{stage}\.{number}\."
        for layer in range(2 if basic else 3):
            path = f"blocks/{block}/layers/{layer}"
            yield Rule(f"{module}conv{layer + 1}", "conv", f"{path}/conv")
            yield Rule(f"{module}bn{layer + 1}", "batch_norm", f"{path}/norm")
        if number == 0 and not (basic and stage == 1):
            path = f"blocks/{block}/shortcut"
            yield Rule(rf"{module}downsample\.0", "conv", f"{path}/conv")
            yield Rule(rf"{module}downsample\.1", "batch_norm", f"{path}/norm")


def vit_pieces(architecture: str, leaves: Mapping[str, Leaf]) -> Sequence[Piece]:
    """The tensors of a vision transformer of timm; `qkv` becomes three leaves each.

    Fails: `ConfigError` for tensors that it does not have.
    """
    del architecture
    own = [piece for name in leaves for piece in _special(name, leaves[name])]
    done = {piece.source for piece in own}
    rest = {name: leaf for name, leaf in leaves.items() if name not in done}
    rules = [rule for rule in _VIT_RULES if rule.match != "head" or _has_head(rest)]
    return [*own, *torch_layout(rest, rules)]


_VIT_RULES = (
    Rule(r"blocks\.(\d+)\.norm1", "layer_norm", r"blocks/\1/attn_norm"),
    Rule(r"blocks\.(\d+)\.attn\.proj", "linear", r"blocks/\1/attn/o"),
    Rule(r"blocks\.(\d+)\.norm2", "layer_norm", r"blocks/\1/mlp_norm"),
    Rule(r"blocks\.(\d+)\.mlp\.fc1", "linear", r"blocks/\1/mlp/up"),
    Rule(r"blocks\.(\d+)\.mlp\.fc2", "linear", r"blocks/\1/mlp/down"),
    Rule("norm", "layer_norm", "norm"),
    Rule("head", "linear", "head"),
)


def _has_head(leaves: Mapping[str, Leaf]) -> bool:
    return any(name.startswith("head.") for name in leaves)


def _special(name: str, leaf: Leaf) -> Iterator[Piece]:
    """Tensors whose shape is another one than that of their module's kind."""
    if name == "cls_token":
        yield _reshaped(name, "cls", leaf.shape, leaf.shape[-1:])
    elif name == "pos_embed":
        yield _reshaped(name, "positions/embedding", leaf.shape, leaf.shape[1:])
    elif name == "patch_embed.proj.weight":
        yield _patches(name, leaf.shape)
    elif name == "patch_embed.proj.bias":
        yield _reshaped(name, "patches/bias", leaf.shape, leaf.shape)
    elif name.endswith((".attn.qkv.weight", ".attn.qkv.bias")):
        yield _fused(name)


def _reshaped(
    source: str, leaf: str, before: tuple[int, ...], after: tuple[int, ...]
) -> Piece:
    return Piece(
        source,
        (leaf,),
        lambda x: (x.reshape(after),),
        lambda xs: xs[0].reshape(before),
        (),
    )


def _patches(source: str, shape: tuple[int, ...]) -> Piece:
    """(D, C, P, P) -> (P P C, D), the order in which `vit` cuts an image."""
    features, channels, height, width = shape
    window = (height, width, channels, features)
    return Piece(
        source,
        ("patches/kernel",),
        lambda x: (kernel_from_torch(x).reshape(-1, features),),
        lambda xs: kernel_to_torch(xs[0].reshape(window)),
        (),
    )


def _fused(source: str) -> Piece:
    """(3 D, D) -> three kernels (D, D), and (3 D,) -> three biases."""
    block, end = source.split(".attn.qkv.")
    leaf = "kernel" if end == "weight" else "bias"
    path = block.replace(".", "/")
    return Piece(
        source,
        tuple(f"{path}/attn/{part}/{leaf}" for part in "qkv"),
        lambda x: tuple(part.T for part in np.split(x, 3)),
        lambda xs: np.concatenate([x.T for x in xs]),
        (),
    )


NAMED: dict[str, Pieces] = {"resnet": resnet_pieces, "vit16": vit_pieces}
