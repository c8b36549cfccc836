"""The command line: `detseg train detector`, `detseg predict`, `detseg evaluate`, `detseg demo`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 after a problem with the input, 2 for unknown options.

    Args:
        arguments: as in `sys.argv[1:]`, which is the default.
    """
    from typing import Annotated

    import tyro

    from detseg.cli.demo import Demo
    from detseg.cli.evaluate import Evaluate
    from detseg.cli.predict import Predict
    from detseg.train.config import TrainDetector

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    command = tyro.conf.subcommand
    Train = Annotated[TrainDetector, command("train-detector", description=TrainDetector.__doc__)]
    config = tyro.cli(
        Train
        | Annotated[Predict, command("predict")]
        | Annotated[Evaluate, command("evaluate")]
        | Annotated[Demo, command("demo")],  # type: ignore[arg-type]
        prog="detseg",
        description=__doc__,
        args=_joined(sys.argv[1:] if arguments is None else arguments),
    )
    return _run(config)


def _joined(arguments: Sequence[str]) -> list[str]:
    """`train detector` as one word: the task belongs to the command."""
    first, *rest = arguments or ("--help",)
    if first == "train" and rest and not rest[0].startswith("-"):
        return [f"train-{rest[0]}", *rest[1:]]
    return [first, *rest]


def _run(config: object) -> int:
    from detseg.cli import demo, evaluate, predict, train
    from detseg.train.config import TrainDetector

    try:
        if isinstance(config, TrainDetector):
            return train.run_detector(config)
        if isinstance(config, predict.Predict):
            return predict.run(config)
        if isinstance(config, evaluate.Evaluate):
            return evaluate.run(config)
        assert isinstance(config, demo.Demo)
        return demo.run(config)
    except (ValueError, OSError, RuntimeError) as error:
        if not _is_users(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def _is_users(error: Exception) -> bool:
    """Whether a message for the user is enough: bad input and files, not our own or torch's faults."""
    from detseg.train.errors import TrainingError

    return isinstance(error, (ValueError, OSError, TrainingError))


if __name__ == "__main__":
    sys.exit(main())
