"""What a person sees while a run goes on."""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm


class Console:
    """A progress bar on a terminal, plain lines with stable columns otherwise."""

    def __init__(
        self,
        steps: int,
        *,
        first: int = 0,
        file: TextIO | None = None,
        silent: bool = False,
    ) -> None:
        self._file = file or sys.stdout
        self._steps = steps
        self._silent = silent
        self._bar = None
        if self._file.isatty() and not silent:
            self._bar = tqdm(
                total=steps, initial=first, file=self._file, unit="step", leave=False
            )

    def say(self, text: str) -> None:
        """One message on lines of its own."""
        if self._silent:
            return
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
        self.say(progress_line(step, self._steps, loss, tokens_per_sec, remaining_secs))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def progress_line(
    step: int, steps: int, loss: float, tokens_per_sec: float, remaining_secs: float
) -> str:
    """A step as a line with stable columns.

    >>> progress_line(5, 10, 2.0, 1234.0, 61.0)
    'step  5/10  loss  2.0000      1,234 tokens/s  left   1:01'
    """
    minutes, seconds = divmod(round(remaining_secs), 60)
    return (
        f"step {step:{len(str(steps))}d}/{steps}  loss {loss:7.4f}  "
        f"{tokens_per_sec:9,.0f} tokens/s  left {minutes:3d}:{seconds:02d}"
    )
