"""The two trees of parameters that `update` times, without any library.

d256    16 matrices of 256 x 256 and 8 of 256 x 1024: four layers of width 256
gpt2s4  16 of 768 x 768 and 8 of 768 x 3072: four layers of GPT-2's smallest size

with an embedding and a head of 256 tokens, and nine vectors of the width.
"""

from __future__ import annotations

WIDTHS = {"d256": 256, "gpt2s4": 768}
LAYERS = 4
VOCAB = 256


def shapes(tree: str) -> dict[str, tuple[int, ...]]:
    """Path -> shape; the paths of matrices end in `kernel`.

    >>> tree = shapes("d256")
    >>> tree["blocks/0/up/kernel"], sum(path.endswith("kernel") for path in tree)
    ((256, 1024), 24)
    """
    width = WIDTHS[tree]
    found: dict[str, tuple[int, ...]] = {
        "embed": (VOCAB, width),
        "head": (width, VOCAB),
        "norm": (width,),
    }
    for layer in range(LAYERS):
        block = f"blocks/{layer}"
        for name in "qkvo":
            found[f"{block}/{name}/kernel"] = (width, width)
        found[f"{block}/up/kernel"] = (width, 4 * width)
        found[f"{block}/down/kernel"] = (4 * width, width)
        for name in ("attn_norm", "mlp_norm"):
            found[f"{block}/{name}"] = (width,)
    return found
