"""What a person sees while a run goes on."""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm


class Console:
    """A progress bar on a terminal, plain lines with stable columns otherwise."""

    def __init__(
        self, steps: int, *, first: int = 0, file: TextIO | None = None
    ) -> None:
        self._file = file or sys.stdout
        self._steps = steps
        self._bar = None
        if self._file.isatty():
            self._bar = tqdm(
                total=steps, initial=first, file=self._file, unit="step", leave=False
            )

    def say(self, text: str) -> None:
        """One message on lines of its own."""
        if self._bar is not None:
            self._bar.write(text, file=self._file)
        else:
            print(text, file=self._file, flush=True)

    def progress(
        self, step: int, loss: float, tokens_per_sec: float, remaining_secs: float
    ) -> None:
        """The state after `step` steps."""
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {loss:.4f}, {tokens_per_sec:,.0f} tokens/s"
            )
            self._bar.update(step - self._bar.n)
            return
        width = len(str(self._steps))
        minutes, seconds = divmod(round(remaining_secs), 60)
        self.say(
            f"step {step:{width}d}/{self._steps}  loss {loss:7.4f}  "
            f"{tokens_per_sec:9,.0f} tokens/s  left {minutes:3d}:{seconds:02d}"
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
