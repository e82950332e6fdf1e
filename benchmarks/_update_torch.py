"""PyTorch's Muon and AdamW, eager, as `update` asks; needs `torch` alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from _update_trees import shapes
from _workers import serve, use_cores

if __name__ == "__main__":
    use_cores(int(sys.argv[1]))

import torch

RATE = 0.01


class TorchSide:
    """What `update` calls."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._steps: dict[str, Callable[[], None]] = {}

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def forms(self) -> list[str]:
        return ["torch muon", "torch adamw"]

    def build(self, tree: str, form: str) -> dict[str, float]:
        """Nothing is compiled, and temporary memory is not known."""
        torch.manual_seed(0)
        spectral, rest = [], []
        for path, shape in shapes(tree).items():
            parameter = torch.nn.Parameter(0.02 * torch.randn(shape))
            parameter.grad = 0.02 * torch.randn(shape)
            muon = form == "torch muon" and path.endswith("kernel")
            (spectral if muon else rest).append(parameter)
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=RATE, fused=True)
        ]
        if spectral:
            optimizers.append(torch.optim.Muon(spectral, lr=RATE))

        def step() -> None:
            for optimizer in optimizers:
                optimizer.step()

        self._steps[form] = step
        step()
        return {"compile_secs": 0.0, "temp_bytes": 0.0}

    def time(self, form: str) -> dict[str, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        self._steps[form]()
        return {
            "secs": time.perf_counter() - wall,
            "cpu_secs": time.process_time() - cpu,
        }


if __name__ == "__main__":
    serve(TorchSide(int(sys.argv[1])))
