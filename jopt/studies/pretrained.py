"""The pre-trained model as a factor of accuracy and calibration out of distribution.

  python -m jopt study pretrained
  python -m jopt study pretrained --size=full --task=coloured_mnist5k
  python -m jopt study pretrained --weights=cnn_16:mine.safetensors
  python -m jopt study pretrained --size=full --task=pacs --data_root=PACS \\
      --weights=resnet_50:resnet50.safetensors --weights=vit16_384:vits.safetensors

Naganuma et al., 2025, arXiv 2307.08187, with a pool of small models that are trained
here, from data in packages: three families by width, by number of images and by recipe.
Each is fine-tuned on the training environments of a task and judged on its last one.

POOL/NAME/           a model: weights and card; another study takes it from there
FOLDER/rows.csv      a line for each evaluation of each run
FOLDER/tables/       each analysis as CSV
FOLDER/figures/      each figure, with matplotlib
FOLDER/report.html   all of it on one page that opens offline
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from jopt.data.environments import FOLDER_SETS, DomainTask
from jopt.errors import ConfigError, DataError, check_choice
from jopt.reporting import markdown_table
from jopt.studies._experiment import Experiment
from jopt.studies._flags import names_of
from jopt.studies.model_pool._architectures import (
    build,
    feature_dim,
    num_params,
)
from jopt.studies.model_pool._data import TASKS, chosen_test_env
from jopt.studies.model_pool._members import (
    SIZES,
    Checkpoint,
    Size,
    checkpoints,
)
from jopt.studies.model_pool._report import summarize
from jopt.studies.model_pool._rows import Chunk, compute, task_of
from jopt.studies.model_pool._user_weights import (
    UserWeights,
    parse_weights,
    user_member,
)
from jopt.weights import Rule, rules_from

FOLDERS = "folders"  # a task of folders of which nothing else is known


def configured(size: str, flags: Sequence[str]) -> tuple[Experiment, list[str]]:
    """The study that these flags ask for, and the flags that are not its own.

    With `--dry_run` the models are listed, with their parameters.

    Fails: `ConfigError` for an unknown name, for a file of `--weights` that does not
    hold its architecture, and where the images are not there, with the command.

    >>> experiment, rest = configured("smoke", ["--optimizers=adamw"])
    >>> list(experiment.chunks("smoke")), rest  # doctest: +NORMALIZE_WHITESPACE
    (['mlp_8-100-none-adamw', 'mlp_16-30-none-adamw', 'mlp_16-100-none-adamw',
      'mlp_16-100-sam-adamw'], [])
    """
    args, rest = _parser().parse_known_args(flags)
    check_choice("size", size, SIZES)
    wanted = _wanted(SIZES[size], args)
    own = [parse_weights(text, _rules(args.names)) for text in args.weights]
    chunks = _chunks(size, wanted, own, args)
    try:
        task = task_of(next(iter(chunks.values())))
    except DataError as error:
        raise ConfigError(str(error)) from error
    test_env = chosen_test_env(task, args.test_env)
    chunks = {name: x._replace(test_env=test_env) for name, x in chunks.items()}
    for given in own:  # says what is wrong before anything is started
        user_member(given, task.input_shape, task.num_classes)
    if "--dry_run" in rest:
        print(_listed(chunks, task))
    judged = partial(summarize, task=task, test_env=test_env)
    return Experiment(lambda size: chunks, compute, judged, label=wanted.task), rest


def _wanted(size: Size, args: argparse.Namespace) -> Size:
    """The size with what was asked for in its place."""
    if args.data_root and not args.weights:
        raise ConfigError(
            "--data_root: nothing is pre-trained for images in folders; give models "
            "with --weights=ARCHITECTURE:FILE"
        )
    task = args.task or (FOLDERS if args.data_root else size.task)
    check_choice("task", task, (FOLDERS, *FOLDER_SETS) if args.data_root else TASKS)
    for family in args.families:
        check_choice("family", family, size.widths)
    for optimizer in args.optimizers:
        check_choice("optimizer", optimizer, size.protocols)
    widths = {name: size.widths[name] for name in args.families or size.widths}
    return size._replace(
        task=task,
        widths={} if args.data_root else widths,
        optimizers=args.optimizers or size.optimizers,
    )


def _chunks(
    size: str, wanted: Size, own: Sequence[UserWeights], args: argparse.Namespace
) -> dict[str, Chunk]:
    """A chunk for each model and optimizer; the test environment is not known yet."""
    models = checkpoints(wanted)
    for given in own:
        name = f"own-{given.architecture}-{given.sha256[:8]}"
        if name in models:
            raise ConfigError(f"--weights: {given.path} is given twice, or a copy is")
        models[name] = Checkpoint(given, None)
    protocols = wanted.of_folders if args.data_root else wanted.protocols
    command = f"python -m jopt study pretrained --size={size} --task={wanted.task}"
    return {
        f"{name}-{optimizer}": Chunk(
            checkpoint,
            protocols[optimizer],
            task=wanted.task,
            root=args.data_root,
            side=args.side if args.data_root else 0,
            test_env=0,
            seed=args.seed,
            pool=str(args.pool),
            command=f"{command} --seed={args.seed}",
        )
        for optimizer in wanted.optimizers
        for name, checkpoint in models.items()
    }


def _listed(chunks: Mapping[str, Chunk], task: DomainTask) -> str:
    """Each model once: parameters with a head for this task's classes, features."""
    rows = []
    for source in dict.fromkeys(chunk.checkpoint.source for chunk in chunks.values()):
        model = build(source.architecture, task.input_shape, task.num_classes)
        if isinstance(source, UserWeights):
            what = [source.path, ""]
        else:
            what = [source.recipe, f"{source.share:.0%}"]
        rows.append(
            [
                source.architecture,
                *what,
                f"{num_params(model, task.input_shape):,}",
                feature_dim(model, task.input_shape),
            ]
        )
    header = ["architecture", "recipe or file", "images", "parameters", "features"]
    shape = " x ".join(map(str, task.input_shape))
    return (
        f"{task.name}: {len(task.envs)} environments, {task.num_classes} classes, "
        f"images {shape}\n\n{markdown_table(header, rows)}\n"
    )


def _rules(path: Path | None) -> Sequence[Rule]:
    """The rules of names in a JSON file.

    Fails: `ConfigError` that names the file.
    """
    if path is None:
        return ()
    try:
        tables = json.loads(path.read_text(encoding="utf-8"))
        return rules_from(tables)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--names={path}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("--task", default="", help=f"one of {', '.join(TASKS)}")
    add("--test_env", type=int, help="number of the test environment; the last one")
    add("--data_root", default="", help="<environment>/<class>/<image>, for --weights")
    add("--side", type=int, default=224, help="height and width of these images")
    add("--families", type=names_of, default=(), help="mlp, cnn, vit")
    add("--optimizers", type=names_of, default=(), help="momentum, adamw")
    add("--pool", type=Path, default=Path("runs/pool"), help="folder of the models")
    add("--weights", action="append", default=[], help="ARCHITECTURE:FILE, repeatable")
    add("--names", type=Path, help="JSON: rules from the names of torch in these files")
    add("--seed", type=int, default=0, help="of the two halves of the images")
    return parser
