"""Eight fine-tuned visual towers of CLIP ViT-B/32, merged. Checked, never run on them.

python -m jopt merge --config=configs/full/merge_clip.py:tsv_m --dry_run
python -m jopt merge --config=configs/full/merge_clip.py:task_arithmetic,hf,search

The first argument is a method; then in any order: `open_clip` (default) or `hf`, whose
names the files have; `whole` where they hold the text tower too, which stays the
base's; `search` for the scale by validation accuracy, else it is the published one.

Weights are yours, in the folder clip:

  clip/base.safetensors, clip/TASK.safetensors   TASK: cars, dtd, eurosat, gtsrb, mnist,
                                                 resisc45, sun397, svhn
  clip/heads/TASK.safetensors     for `search`: `weight` (classes, 512), text features
  clip/images/TASK/CLASS/*.jpg    for `search`: training images, classes by name; or
  clip/tfds                       what TFDS prepared (docs/models.md); not for gtsrb

Ilharco et al. 2023, arXiv 2212.04089; Yoshida et al. 2026, arXiv 2508.01148. The tower
has 87,849,216 numbers. Memory by method: docs/merging_files.md.
"""

from jopt.errors import check_choice
from jopt.studies.merging.clip import FOLDER, TASKS
from jopt.weights import default_merge

# Scale without validation data, and the highest of 21 that a search tries.
METHODS = {
    "task_arithmetic": (0.3, 1.0),
    "ties": (1.0, 3.0),
    "tsv_m": (1.0, 3.0),
    "iso_c": (1.0, 3.0),
    "iso_cts": (1.0, 3.0),
    "wudi": (1.0, 1.0),
}
HEADS = 12
# (module or parameter, kind, name as in jopt.models.vit); names are as we recall them.
OPEN_CLIP = (
    (r"conv1", "conv", "patches"),
    (r"class_embedding", "raw", "cls"),
    (r"positional_embedding", "raw", "positions/embedding"),
    (r"ln_pre", "layer_norm", "pre_norm"),
    (r"transformer\.resblocks\.(\d+)\.ln_1", "layer_norm", r"blocks/\1/attn_norm"),
    (r"transformer\.resblocks\.(\d+)\.attn", "attention", r"blocks/\1/attn"),
    (r"transformer\.resblocks\.(\d+)\.ln_2", "layer_norm", r"blocks/\1/mlp_norm"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc", "linear", r"blocks/\1/mlp/up"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj", "linear", r"blocks/\1/mlp/down"),
    (r"ln_post", "layer_norm", "norm"),
    (r"proj", "raw", "head/kernel"),
)
_LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
HF = (
    (r"vision_model\.embeddings\.patch_embedding", "conv", "patches"),
    (r"vision_model\.embeddings\.class_embedding", "raw", "cls"),
    (r"vision_model\.embeddings\.position_embedding", "embedding", "positions"),
    (r"vision_model\.pre_layrnorm", "layer_norm", "pre_norm"),
    (_LAYER + r"layer_norm1", "layer_norm", r"blocks/\1/attn_norm"),
    (_LAYER + r"self_attn\.q_proj", "to_heads", r"blocks/\1/attn/query"),
    (_LAYER + r"self_attn\.k_proj", "to_heads", r"blocks/\1/attn/key"),
    (_LAYER + r"self_attn\.v_proj", "to_heads", r"blocks/\1/attn/value"),
    (_LAYER + r"self_attn\.out_proj", "from_heads", r"blocks/\1/attn/out"),
    (_LAYER + r"layer_norm2", "layer_norm", r"blocks/\1/mlp_norm"),
    (_LAYER + r"mlp\.fc1", "linear", r"blocks/\1/mlp/up"),
    (_LAYER + r"mlp\.fc2", "linear", r"blocks/\1/mlp/down"),
    (r"vision_model\.post_layernorm", "layer_norm", "norm"),
    (r"visual_projection", "linear", "head"),
)
_WITH_HEADS = ("attention", "to_heads", "from_heads")


def names(layout, *, whole):
    """Rules for the tower, and for the rest of a whole model."""
    prefix, table = (r"visual\.", OPEN_CLIP) if layout == "open_clip" else ("", HF)
    rules = [
        {"match": prefix + match, "kind": kind, "name": name}
        | ({"heads": HEADS} if kind in _WITH_HEADS else {})
        for match, kind, name in table
    ]
    if whole:
        rules.append({"match": r".*", "kind": "raw", "name": r"rest/\g<0>"})
    return tuple(rules)


def get_config(arg=""):
    method, *words = (arg or "tsv_m").split(",")
    check_choice("method", method, METHODS)
    for word in words:
        check_choice("argument", word, ("open_clip", "hf", "whole", "search"))
    scale, highest = METHODS[method]
    config = default_merge()
    config.base = str(FOLDER / "base.safetensors")
    config.models = tuple(
        {"path": str(FOLDER / f"{task}.safetensors"), "name": task} for task in TASKS
    )
    config.method = method
    config.names = names("hf" if "hf" in words else "open_clip", whole="whole" in words)
    config.keep_base = (r"^rest/",)
    if "search" in words:
        config.search.evaluate = "jopt.studies.merging.clip:validation_accuracies"
        config.search.grid = tuple(highest * step / 20 for step in range(21))
    else:
        config.scale = scale
    config.out = str(FOLDER / f"merged-{method}.safetensors")
    return config
