"""`python -m jopt study NAME`: a question, and what computes the answer."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jopt.errors import ConfigError, check_choice, print_error
from jopt.studies import _experiment, compare, sweep
from jopt.training._flags import parse
from jopt.training._signals import EXIT_DONE, EXIT_USAGE

SIZES = ("smoke", "default", "full")


class Study(NamedTuple):
    """A question that a sweep and its comparison answer.

    Attributes:
        question: what is asked.
        config: of the sweep that answers it.
        against: the arm that all others are compared with; None: every pair is.
        share: of communication in a data-parallel step, of the modelled time; None:
            that is not asked for.
        at: at what equal amounts runs are compared besides at their ends.
    """

    question: str
    config: str
    against: str | None = None
    share: float | None = None
    at: tuple[str, ...] = ()


class Computed(NamedTuple):
    """A question that a module answers in its own process, row by row.

    Attributes:
        question: what is asked.
        module: has `EXPERIMENT`; imported where the study is asked for.
        asked: the module has instead `configured(size, flags) -> (experiment, flags)`,
            for a study with flags of its own; those that it knows are taken away.
    """

    question: str
    module: str
    asked: bool = False


STUDIES: dict[str, Study | Computed] = {
    "optimizers_lm": Study(
        "Which optimizers are better than AdamW for the matrices of a language model?",
        "configs/sweeps/optimizers_lm.py",
        against="adamw",
    ),
    "polar_stages_lm": Study(
        "How many stages of Newton-Schulz does Muon need on a language model?",
        "configs/sweeps/polar_stages_lm.py",
    ),
    "geometries_lm": Study(
        "Does choosing sign or spectral steps layer by layer pay on a language model?",
        "configs/sweeps/geometries_lm.py",
        against="spec_sign",
    ),
    "batch_geometries_lm": Study(
        "Does the better of sign and spectral steps move with the size of the batch?",
        "configs/sweeps/batch_geometries_lm.py",
    ),
    "adaptive_against_fixed_lm": Study(
        "Does a batch that follows its noise scale pay, at equal bytes?",
        "configs/sweeps/adaptive_against_fixed_lm.py",
        against="fixed",
    ),
    "flatness_digits": Study(
        "Which optimizers of a perceptron find flat minima without tuning?",
        "configs/sweeps/flatness_digits.py",
        against="sgd",
    ),
    "flatness_mnist5k": Study(
        "Which optimizers of a CNN find flat minima without tuning?",
        "configs/sweeps/flatness_mnist5k.py",
        against="sgd",
    ),
    "sharpness_cost_digits": Study(
        "Which members of the SAM family pay, at equal gradient evaluations?",
        "configs/sweeps/sharpness_cost_digits.py",
        against="sgd",
    ),
    "sam_spectral_lm": Study(
        "Does a perturbation in the spectral ball help Muon on a language model?",
        "configs/sweeps/sam_spectral_lm.py",
        against="muon",
    ),
    "palsgd_lm": Study(
        "Which part of what PALSGD saves on a language model is skipped compute?",
        "configs/sweeps/palsgd_lm.py",
        against="ddp",
        share=0.2,
        at=("gradients", "time"),
    ),
    "palsgd_genres_lm": Study(
        "The same where each replica has genres of its own.",
        "configs/sweeps/palsgd_genres_lm.py",
        against="ddp",
        share=0.2,
        at=("gradients", "time"),
    ),
    "palsgd_cnn": Study(
        "The same for a convolutional network.",
        "configs/sweeps/palsgd_cnn.py",
        against="ddp",
        share=0.2,
        at=("gradients", "time"),
    ),
    "local_inner_lm": Study(
        "Which optimizer trains best inside replicas that meet now and then, and what "
        "does an exchange of two bits cost?",
        "configs/sweeps/local_inner_lm.py",
        against="adamw_diloco",
    ),
    "streaming_lm": Study(
        "What do parts, delay, mixing and four bits cost in loss, and save in bytes?",
        "configs/sweeps/streaming_lm.py",
        against="diloco",
    ),
    "optimizers_digits": Study(
        "Which optimizers are better than AdamW for the matrices of a perceptron?",
        "configs/sweeps/optimizers_digits.py",
        against="adamw",
    ),
    "spec_sign_synthetic": Computed(
        "Which rule finds the better step, sign or spectral, on synthetic layers?",
        "jopt.studies.computed.spec_sign_synthetic",
    ),
    "edge_of_stability": Computed(
        "Which optimizers train at the edge of stability, each in its own norm?",
        "jopt.studies.computed.edge_of_stability",
    ),
    "random_features": Computed(
        "Does nuclear against stable rank find the better of a gradient and a spectral "
        "step on random features?",
        "jopt.studies.computed.random_features",
    ),
    "merging_digits": Computed(
        "What breaks a merge of eight tasks, and what does DisTaC repair?",
        "jopt.studies.merging.digits",
    ),
    "merging_vit": Computed(
        "The same for a small vision transformer, whose attention is merged.",
        "jopt.studies.merging.vit",
    ),
    "merging_ablations": Computed(
        "What does DisTaC depend on, and when does it not matter?",
        "jopt.studies.merging.ablations",
    ),
    "mergeability_by_optimizer": Computed(
        "How does the optimizer of the fine-tuning change how well models merge?",
        "jopt.studies.merging.optimizers",
    ),
    "optimizer": Computed(
        "Does the optimizer change accuracy out of distribution where that within is "
        "alike?",
        "jopt.studies.optimizer",
        asked=True,
    ),
    "pretrained": Computed(
        "Which pre-trained model is accurate and calibrated out of distribution?",
        "jopt.studies.pretrained",
        asked=True,
    ),
    "no_wrong_turns": Computed(
        "Do gradients point away from where training ends, and is the rate that this "
        "gives a schedule?",
        "jopt.studies.computed.no_wrong_turns",
    ),
}


def main(argv: Sequence[str]) -> int:
    """Runs or resumes a study; its tables are printed and kept in its folder."""
    args, flags = _parser().parse_known_args(argv)
    try:
        check_choice("study", args.name, STUDIES)
        study = STUDIES[args.name]
        if isinstance(study, Computed):
            module = importlib.import_module(study.module)
            if study.asked:
                experiment, flags = module.configured(args.size, flags)
            else:
                experiment = module.EXPERIMENT
            print(f"{study.question}\n", flush=True)
            return _experiment.main(experiment, args.name, args.size, flags)
        if not Path(study.config).exists():
            raise ConfigError(
                f"{study.config} is not here; start studies from a checkout of jopt"
            )
    except ConfigError as error:
        print_error(error)
        return EXIT_USAGE
    flags = [f"--config={study.config}:{args.size}", *flags]
    code = sweep.main(flags)
    if code != EXIT_DONE:
        return code
    options, rest = sweep.split(flags)
    line = parse(rest)
    if line.dry_run or options.status or options.collect or options.slurm:
        return code
    print(f"\n{study.question}\n", flush=True)
    return _compare(study, sweep.default_folder(line))


def _compare(study: Study, folder: Path) -> int:
    """All comparisons of a study; the first code that is not 0."""
    flags = [str(folder)]
    if study.against is not None:
        flags.append(f"--against={study.against}")
    if study.share is not None:
        flags.append(f"--share={study.share}")
    for at in (None, *study.at):
        name = "compare" if at is None else f"compare_{at}"
        tables = [f"--{kind}={folder / name}.{kind}" for kind in ("csv", "html")]
        own = []
        if at is not None:
            print(f"\nAt equal {at}:\n", flush=True)
            own = [f"--at={at}"]
        code = compare.main([*flags, *own, *tables])
        if code != EXIT_DONE:
            return code
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name}: {study.question}" for name, study in STUDIES.items())
    parser = argparse.ArgumentParser(
        prog="python -m jopt study",
        description="Studies that are sweeps take the flags of `python -m jopt sweep`, "
        "others --workdir and --dry_run; `optimizer` and `pretrained` also --task and "
        "more.",
        epilog=f"studies:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--size", choices=SIZES, default="default")
    return parser
