"""Files of options: YAML with the names and values of the command line, or the `config.json` of a run."""

import contextlib
import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from detseg.cli.arguments import FROM_FILE, option_names, plain_name
from detseg.json_text import as_declared, parse_json, read_bytes
from detseg.options import option
from detseg.reading import FileError, reading

ON, OFF, NOTHING = ("true", "yes", "on"), ("false", "no", "off"), ("", "null", "~")
# Of the settings of a run those that another run has of its own.
OF_ONE_RUN = ("output",)
LONGEST = 10_000  # letters of a value: longer than any path or list of numbers, and still taken apart at once
Value = str | bool | int | float | None


def split_words(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words without ``--config FILE``, and the file.

    Raises:
        ValueError: there are two of them.
    """
    rest, files, words = [], [], list(words)
    while words:
        word = words.pop(0)
        if word == option(FROM_FILE) and words:
            files.append(words.pop(0))
        elif word.startswith(f"{option(FROM_FILE)}="):
            files.append(word.partition("=")[2])
        else:
            rest.append(word)
    if len(files) > 1:
        raise ValueError(f"{option(FROM_FILE)} {files[1]}: options are read from one file, which is {files[0]}")
    return rest, Path(files[0]) if files else None


def read_options(path: Path, command: str) -> dict[str, Any]:
    """The options in a file for a command, by name, values as text or as JSON has them.

    Of a run's `config.json` its output folder is left out: a new run has another one.

    Raises:
        FileError: it cannot be read.
        ValueError: it holds something else, or is the `config.json` of another command's run.
    """
    import yaml

    place = f"--config {path}"
    with reading(place):
        text = read_bytes(path)
        if path.suffix == ".json":
            content = parse_json(text, place, of_paths=True)
        else:  # YAML's own ideas of numbers and truth are left to those who know the options
            try:
                content = yaml.load(text, yaml.BaseLoader)
            except yaml.YAMLError as error:
                raise FileError(f"{place}: is not readable: {' '.join(str(error).split())}") from error
    content = {} if content is None else content  # of an empty file
    if not isinstance(content, dict):
        raise ValueError(f"--config {path}: must hold names and values of options, such as `batch-size: 16`")
    if path.suffix == ".json" and "task" in content:
        content = _of_run(path, content, command)
    values = Value | list[Value]
    return {str(name): as_declared(value, values, f"{place}: {name}") for name, value in content.items()}


def _of_run(path: Path, content: dict[str, Any], command: str) -> dict[str, Any]:
    from detseg.train.config import EXTENSIONS, config_for

    task = content.pop("task")
    if not isinstance(task, str) or command != f"train {task}":
        raise ValueError(
            f"--config {path}: holds the options of `detseg train {task!s:.40}`, not of `detseg {command}`"
        )
    model = as_declared(content.get("model"), str | None, f"--config {path}: model")
    content = config_for(task, model).upgraded(content)
    return {name: value for name, value in content.items() if name not in (*OF_ONE_RUN, EXTENSIONS)}


def words_of(options: Mapping[str, Any], kind: type[Any], given: Sequence[str], path: Path | None) -> list[str]:
    """What would be typed for the options of a file, but for those that the `given` words say already.

    Args:
        options: as `read_options` gives them.
        kind: the command's dataclass.
        given: the words on the command line.
        path: of the file, for messages.

    Raises:
        ValueError: the command has no such option, or a value is none.
    """
    names = option_names(kind)
    said = {names.get(plain_name(w)) or names.get(plain_name(w).removeprefix("no_")) for w in given if w[:2] == "--"}
    hints = get_type_hints(kind)
    defaults = {field.name: field.default for field in fields(kind)}
    words: list[str] = []
    read: dict[str, str] = {}
    for key, value in options.items():
        name = names.get(plain_name(key))
        if name is None:
            raise ValueError(f"--config {path}: {_unknown(key, names, kind)}")
        if name in read:
            raise ValueError(f"--config {path}: {read[name]} and {key} are the same option; leave one out")
        read[name] = key
        if name not in said:
            try:
                typed = _words(name, value, hints[name], defaults[name])
                if any("\0" in word for word in typed):
                    raise ValueError(f"{key}: has a zero character, which no value can have")
            except ValueError as error:
                raise ValueError(f"--config {path}: {error}") from error
            words += typed
    return words


def _unknown(key: str, names: Mapping[str, str], kind: type[Any]) -> str:
    if plain_name(key) in {field.name for field in fields(kind)}:
        return f"{key} is named on the command line itself, not in a file"
    near = difflib.get_close_matches(plain_name(key), names, 3, 0.5)
    hint = f"; did you mean {', '.join(option(n)[2:] for n in near)}?" if near else "; --help lists the options"
    return f"there is no option {key!r}{hint}"


def _words(name: str, value: Any, hint: Any, default: Any) -> list[str]:
    """What is typed for one option with a value."""
    flag, kinds = option(name), get_args(hint) or (hint,)
    if isinstance(value, str) and len(value) > LONGEST:
        raise ValueError(f"{flag[2:]}: has {len(value)} letters, and no value has more than {LONGEST}; correct it")
    if value is None or (isinstance(value, str) and value.lower() in NOTHING):
        if type(None) not in kinds:
            raise ValueError(f"{flag[2:]} has no value")
        return [] if default is None else [flag, "None"]
    if hint is bool:
        if str(value).lower() not in ON + OFF:
            raise ValueError(f"{flag[2:]} is true or false, not {value}")
        return [flag if str(value).lower() in ON else option(f"no_{name}")]
    if get_origin(hint) is tuple or any(get_origin(kind) is tuple for kind in kinds):
        values = list(map(str, value)) if isinstance(value, list) else shlex.split(str(value))
        return [flag, *map(str, _read(values, hint, flag[2:]))]
    if isinstance(value, list):
        raise ValueError(f"{flag[2:]} has one value, not a list")
    if bool in kinds and str(value).lower() in ON + OFF:
        value = str(value).lower() in ON
    return [f"{flag}={_read(str(value), hint, flag[2:])}"]


def _read(value: Any, hint: Any, name: str) -> Any:
    """Texts as the type of the option of a name; raises FileError where they are none."""
    try:
        return as_declared(value, hint, name, strict=False)
    except FileError:  # a number may be written in more ways than JSON has
        return as_declared(list(map(_number, value)) if isinstance(value, list) else _number(value), hint, name)


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
