"""A small model as torch names its tensors, with no torch, and files of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

RULES = (
    {"match": "stem", "kind": "conv", "name": "stem"},
    {"match": "norm", "kind": "batch_norm", "name": "norm"},
    {"match": "embed", "kind": "embedding", "name": "embed"},
    {
        "match": r"layers\.(\d+)\.attn",
        "kind": "attention",
        "name": r"blocks/\1/attn",
        "heads": 3,
    },
    {"match": r"layers\.(\d+)\.ln", "kind": "layer_norm", "name": r"blocks/\1/ln"},
    {"match": r"layers\.(\d+)\.fc", "kind": "linear", "name": r"blocks/\1/mlp"},
    {"match": "cls_token", "kind": "raw", "name": "cls"},
)


def _torch_tensors(seed: int, spread: float) -> dict[str, np.ndarray]:
    """Convolution, BatchNorm, embedding, attention, LayerNorm, linear, a bare one."""
    rng = np.random.default_rng(0)
    noise = np.random.default_rng(seed)
    shapes = {
        "stem.weight": (8, 3, 5, 4),
        "stem.bias": (8,),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "norm.running_mean": (8,),
        "norm.running_var": (8,),
        "embed.weight": (10, 6),
        "layers.0.attn.in_proj_weight": (18, 6),
        "layers.0.attn.in_proj_bias": (18,),
        "layers.0.attn.out_proj.weight": (6, 6),
        "layers.0.attn.out_proj.bias": (6,),
        "layers.0.ln.weight": (6,),
        "layers.0.ln.bias": (6,),
        "layers.0.fc.weight": (12, 6),
        "layers.0.fc.bias": (12,),
        "cls_token": (1, 1, 6),
    }
    tensors = {
        name: (rng.normal(size=shape) + spread * noise.normal(size=shape)).astype("f4")
        for name, shape in shapes.items()
    }
    tensors["norm.running_var"] = np.abs(tensors["norm.running_var"])
    tensors["norm.num_batches_tracked"] = np.array(seed, np.int64)
    return tensors


@pytest.fixture
def rules() -> tuple[dict, ...]:
    """Those of `tensors`, as a config has them."""
    return RULES


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    """A torch model's state."""
    return _torch_tensors(7, 0.0)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """`saved(name, tensors, **metadata)`: their path, written by the library."""

    def save(name: str, tensors: dict[str, np.ndarray], **metadata: str) -> Path:
        path = tmp_path / f"{name}.safetensors"
        whole = {k: np.asarray(x, order="C") for k, x in tensors.items()}
        save_file(whole, path, metadata)
        return path

    return save


@pytest.fixture
def torch_files(saved: Callable[..., Path]) -> list[Path]:
    """The base and two models fine-tuned from it."""
    return [
        saved("base", _torch_tensors(7, 0.0), format="pt"),
        saved("one", _torch_tensors(1, 0.1), format="pt"),
        saved("two", _torch_tensors(2, 0.1), format="pt"),
    ]
