"""The command line: a word or two choose a command, its dataclass gives the options."""

import difflib
import errno
import inspect
import logging
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any, NamedTuple

from detseg.cli.streams import open_streams, silence, use_utf8
from detseg.console import indented, one_line
from detseg.tasks import TASKS


class Command(NamedTuple):
    """Where a command lives; nothing of it is imported before it is asked for."""

    config: str  # module:dataclass of its options, or a function that gives it for the command's name and words
    run: str  # module:function that takes them and returns the exit code
    about: str


COMMANDS = {
    **{
        f"train {task}": Command("detseg.cli.train:options", "detseg.cli.train:run", entry.about)
        for task, entry in TASKS.items()
    },
    "predict": Command(
        "detseg.cli.predict:Predict", "detseg.cli.predict:run", "run a trained model on images: boxes, masks or classes"
    ),
    "explain": Command(
        "detseg.cli.explain:Explain", "detseg.cli.explain:run", "explain detections or a classification by heat maps"
    ),
    "evaluate": Command(
        "detseg.cli.evaluate:Evaluate",
        "detseg.cli.evaluate:run",
        "evaluate predictions: metrics, confidence intervals, error analysis",
    ),
    "doctor": Command(
        "detseg.cli.doctor:Doctor", "detseg.cli.doctor:run", "examine a data set: what is wrong, what is doubtful"
    ),
    "crops": Command(
        "detseg.cli.crops:Crops", "detseg.cli.crops:run", "crop annotated objects into one folder per class"
    ),
    "windows": Command(
        "detseg.cli.windows:Windows", "detseg.cli.windows:run", "cut windows to train a sliding-window detector"
    ),
    "label": Command(
        "detseg.cli.label:Label", "detseg.cli.label:run", "pre-label images to correct; which images to label next"
    ),
    "pack": Command(
        "detseg.cli.pack:Pack", "detseg.cli.pack:run", "pack a data set larger than memory into one HDF5 file"
    ),
    "convert": Command(
        "detseg.cli.convert:options", "detseg.cli.convert:run", "write a data set in another annotation format"
    ),
    "split": Command(
        "detseg.cli.split:options", "detseg.cli.split:run", "split a data set by share, stratified and grouped; folds"
    ),
    "show": Command(
        "detseg.cli.show:Show", "detseg.cli.show:run", "draw a data set: images, classes, sizes, positions"
    ),
    "backbones": Command(
        "detseg.cli.backbones:Backbones", "detseg.cli.backbones:run", "list backbones and their weights"
    ),
    "export": Command("detseg.cli.export:Export", "detseg.cli.export:run", "write a trained model in another format"),
    "benchmark": Command(
        "detseg.cli.benchmark:Benchmark",
        "detseg.cli.benchmark:run",
        "compare engines: accuracy and time of a run in each",
    ),
    "serve": Command("detseg.cli.serve:Serve", "detseg.cli.serve:run", "a model as a web page and an HTTP API"),
    "demo": Command("detseg.cli.demo:Demo", "detseg.cli.demo:run", "train on generated flower images; no data needed"),
}


# Commands under the names that they have elsewhere.
ALSO = {"val": "evaluate"}
# Options that decide which others there are.
CHOOSES = ("model",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 after a problem with the input, 130 after Ctrl-C.

    Args:
        arguments: as in `sys.argv[1:]`, which is the default.

    Raises:
        SystemExit: with 2 for an unknown or unfinished command or options, with 0 after the help of a command.
    """
    if arguments is None:
        use_utf8()
    open_streams()
    try:
        try:
            return _main(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, `head` say, has had enough
        silence(sys.stdout)
        return 0
    except OSError as error:  # on a full disk, say
        silence(sys.stdout)
        print(f"error: standard output: cannot be written: {error.strerror}", file=sys.stderr)
        return 1


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        import detseg

        print(f"detseg {detseg.__version__}")
        return 0
    # torch asks for it at its first tensor: large ones get large pages, which the system provides in fewer steps.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    name = _command(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING)  # what is logged below is printed where a command wants it
        handler.addFilter(_without_orders)
    words = words[len(name.split()) :]
    return _run(COMMANDS[name], _options(name, words), words)


def _without_orders(record: logging.LogRecord) -> bool:
    """What is logged, as plain text."""
    record.msg, record.args = indented(record.getMessage()), None
    return True


def _listed(names: Iterable[str]) -> list[str]:
    """Lines with commands and what they are for."""
    width = max(map(len, COMMANDS)) + 2
    return [f"  detseg {name:<{width}}{COMMANDS[name].about}" for name in names]


def _overview() -> str:
    return "\n".join(
        [
            "Object detection and segmentation on your own annotated images.",
            "",
            *_listed(COMMANDS),
            "",
            "For example:",
            "",
            "  detseg train detector --data flowers/ --minutes 30 --output runs/flowers",
            "  detseg predict runs/flowers garden.jpg --output found",
            "",
            "Every command explains its options: detseg predict --help",
            *(f"`detseg {other}` is `detseg {own}`." for other, own in ALSO.items()),
            "With DETSEG_TRACEBACK=1 in the environment, errors say where in the code they arose.",
        ]
    )


def _command(words: Sequence[str]) -> str:
    """The command that the first words name, or SystemExit: after the list of those that begin with the only word, or
    with the names near them."""
    for count in (2, 1):
        name = " ".join(words[:count])
        name = ALSO.get(name, name)
        if name in COMMANDS:
            return name
    begun = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if begun and words[1:] in ([], ["-h"], ["--help"]):
        wanted = len(words) > 1
        lines = [f"Another word says which `detseg {words[0]}`:", "", *_listed(begun), "", "Each has its own --help."]
        print("\n".join(lines), file=sys.stdout if wanted else sys.stderr)
        raise SystemExit(0 if wanted else 2)
    typed = " ".join(words[:2]) if begun else words[0]
    near = begun or difflib.get_close_matches(typed, COMMANDS, 1)
    hint = f"did you mean `detseg {near[0]}`?" if near else "`detseg --help` lists the commands."
    print(one_line(f"error: there is no command '{typed}'; {hint}"), file=sys.stderr)
    raise SystemExit(2)


def _options(name: str, words: Sequence[str]) -> object:
    """The command's dataclass, filled from the command line, and from the file of options that it names."""
    import tyro

    from detseg.cli.arguments import as_typed
    from detseg.cli.config_file import read_options, split_words, words_of

    config = _find(COMMANDS[name].config)
    try:
        own, file = split_words(words)
        options = {} if file is None else read_options(file, name)
        if inspect.isfunction(config):
            said = {word.partition("=")[0] for word in own}
            choice = [
                f"--{key}={options[key]}" for key in CHOOSES if options.get(key) is not None and f"--{key}" not in said
            ]
            try:
                config = config(name, [*choice, *own])
            except ValueError as error:
                raise ValueError(f"--config {file}: {error}" if choice else str(error)) from error
        # Behind the others, among which may be some without a name.
        own += words_of(options, config, own, file)
        if odd := next((word for word in own if "\0" in word), None):
            raise ValueError(f"{odd}: has a zero character, which no name can have")
    except ValueError as error:
        raise SystemExit(indented(f"error: {error}")) from error
    # Cleaned here: an indented docstring would come out as one ragged paragraph.
    description = inspect.cleandoc(config.__doc__ or "")
    typed: Any = tyro.cli(as_typed(config), prog=f"detseg {name}", description=description, args=own)
    return config(**{field.name: getattr(typed, field.name) for field in fields(config)})


def _find(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(module), name)


def _run(command: Command, config: object, words: Sequence[str]) -> int:
    try:
        return _find(command.run)(config)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("DETSEG_TRACEBACK") or not _is_users(error):
            raise
        print(indented(f"error: {_told(error)}{_whence(str(error), words)}"), file=sys.stderr)
        return 1


def _whence(message: str, words: Sequence[str]) -> str:
    """Where the options that a message names may come from, if not from the command line."""
    from detseg.cli.config_file import split_words

    typed, file = split_words(words)
    named = [word for word in re.findall(r"--[a-z][a-z-]*", message) if word not in " ".join(typed)]
    return f" ({named[0]}: see {file})" if file and named and str(file) not in message else ""


def _told(error: Exception) -> str:
    """What went wrong, with the file: the system's own errors put numbers first, and names last."""
    if isinstance(error, UnicodeEncodeError) and one_line(error.object) != error.object:
        before, after = error.object[: error.start].splitlines(), error.object[error.start :].splitlines()
        name = one_line("".join(before[-1:])[-100:] + after[0][:100])
        return f"{name}: this name is no text in UTF-8, and is needed as such here; rename it"
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EFBIG):  # files have their names
            silence(sys.stdout)
            return f"standard output: cannot be written: {error.strerror}"
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{place}{error.strerror}"
    return str(error)


def _is_users(error: Exception) -> bool:
    """Whether a message for the user is enough: bad input and files, not our own or torch's faults."""
    from detseg.train.errors import TrainingError

    return isinstance(error, (ValueError, OSError, TrainingError))


if __name__ == "__main__":
    sys.exit(main())
