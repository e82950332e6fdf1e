"""The same trials in plain eager PyTorch, as `sweep` asks; needs `torch` alone.

Written as DomainBed's: minibatches of each environment, one forward pass over all of
them, the penalty of IRM by a second derivative, one optimizer object for each trial.
Pixels are random; their number and the arithmetic are those of coloured digits.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from _workers import serve, use_cores

if __name__ == "__main__":
    use_cores(int(sys.argv[1]))

import torch
from torch.nn import functional

ENVIRONMENTS, EXAMPLES, ROWS = 2, 480, 64
PIXELS, CLASSES = 128, 2
PENALTY_WEIGHT = 100.0
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr, weight_decay=1e-4),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, 0.9, weight_decay=1e-4),
    "nesterov": lambda p, lr: torch.optim.SGD(
        p, lr, 0.9, weight_decay=1e-4, nesterov=True
    ),
    "rmsprop": lambda p, lr: torch.optim.RMSprop(p, lr, momentum=0.9),
    "adam": lambda p, lr: torch.optim.Adam(p, lr, weight_decay=1e-4),
}


def irm_penalty(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The product of the slopes of the even and the odd rows."""
    scale = torch.tensor(1.0, requires_grad=True)
    halves = [
        functional.cross_entropy(logits[k::2] * scale, targets[k::2]) for k in (0, 1)
    ]
    slopes = [torch.autograd.grad(x, [scale], create_graph=True)[0] for x in halves]
    return slopes[0] * slopes[1]


class TorchSide:
    """What `sweep` calls."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._problem: dict[str, Any] = {}

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def forms(self) -> list[str]:
        return ["torch"]

    def build(self, form: str, **problem: Any) -> dict[str, float]:
        """Nothing is compiled."""
        self._problem = problem
        torch.manual_seed(0)
        self._images = torch.rand(ENVIRONMENTS, EXAMPLES, PIXELS)
        self._targets = torch.randint(CLASSES, (ENVIRONMENTS, EXAMPLES))
        return {"secs": 0.0, "cpu_secs": 0.0}

    def time(self, form: str) -> dict[str, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        for trial in range(self._problem["trials"]):
            self._train(10 ** (-3 + trial / self._problem["trials"]))
        return {
            "secs": time.perf_counter() - wall,
            "cpu_secs": time.process_time() - cpu,
        }

    def _train(self, learning_rate: float) -> None:
        width, irm = self._problem["width"], self._problem["algorithm"] == "irm"
        model = torch.nn.Sequential(
            torch.nn.Linear(PIXELS, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, CLASSES),
        )
        make = OPTIMIZERS[self._problem["optimizer"]]
        optimizer = make(model.parameters(), learning_rate)
        for _ in range(self._problem["steps"]):
            index = [torch.randint(EXAMPLES, (ROWS,)) for _ in range(ENVIRONMENTS)]
            images = torch.cat([x[i] for x, i in zip(self._images, index, strict=True)])
            targets = [y[i] for y, i in zip(self._targets, index, strict=True)]
            logits = model(images).split(ROWS)
            pairs = list(zip(logits, targets, strict=True))
            loss = sum(functional.cross_entropy(x, y) for x, y in pairs)
            if irm:
                loss = loss + PENALTY_WEIGHT * sum(irm_penalty(x, y) for x, y in pairs)
            optimizer.zero_grad()
            (loss / ENVIRONMENTS).backward()
            optimizer.step()


if __name__ == "__main__":
    serve(TorchSide(int(sys.argv[1])))
