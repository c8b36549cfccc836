"""The page of a run: `report.html` in its folder, the drawings beside it, nothing from the network."""

import json
import logging
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import PIL.Image

from detseg.console import plain
from detseg.files import write_atomically
from detseg.json_text import parse_json, read_bytes
from detseg.report.columns import Column

logger = logging.getLogger(__name__)


class Table(NamedTuple):
    """A table that stays as it is."""

    title: str
    rows: Sequence[tuple[str, str, Sequence[str]]]  # what it is about, a quieter explanation, the cells
    heads: Sequence[str] = ()
    note: str = ""


class ClassTable(NamedTuple):
    """A row for each class, sorted by the first column, the best first; a click on a head sorts anew."""

    names: Sequence[str]
    columns: Sequence[Column]

    @property
    def heads(self) -> list[str]:
        """What stands above the columns."""
        return ["Class", *(column.title for column in self.columns)]

    @property
    def ranked(self) -> list[tuple[str, list[tuple[float, str]]]]:
        """Name of each class, and value to sort by and text of each cell; NaN is below everything."""
        rows = [
            (name, [(-1.0 if c.values[k] != c.values[k] else c.values[k], c.write(c.values[k])) for c in self.columns])
            for k, name in enumerate(self.names)
        ]
        return sorted(rows, key=lambda row: -row[1][0][0])


@dataclass(frozen=True, kw_only=True)
class Page:
    """What is on the page of a run."""

    title: str
    summary: Mapping[str, Any]  # facts about the run, in the order to be shown
    pictures: Sequence[tuple[str, str | Path]]  # (caption, path relative to the run folder); one may be missing
    cards: Sequence[tuple[str, str, str]] = ()  # name, value and range of the figures that matter most
    figures: Table | None = None
    classes: ClassTable | None = None
    tables: Sequence[Table] = ()  # what else there is, under the classes
    about: str = "The run"  # above the facts
    predicts: str = ""  # what `detseg predict` does with such a model, in a sentence
    snippet: str = ""  # how to use it from Python, with {run} in place of its folder


def write_page(run_folder: str | Path, page: Page, name: str = "report.html", *, embed: bool = False) -> Path:
    """Write a page into the run folder, made if missing; returns its path.

    The configuration is read from `config.json` in the folder, if it is there. Pictures are links, or with `embed` in
    the page itself, which then needs no other file. A picture's path that is absolute or leads out of the run folder
    raises ValueError.
    """
    folder = Path(run_folder)
    text = render(
        "report.html.j2",
        page=page,
        summary=[(name, _text(value)) for name, value in page.summary.items()],
        pictures=[(_embedded if embed else _image)(folder, caption, path) for caption, path in page.pictures],
        embed=embed,
        command=f"detseg predict {shlex.quote(str(run_folder))} image.jpg",
        snippet=page.snippet.format(run=json.dumps(str(run_folder), ensure_ascii=False)),
        configuration=_configuration(folder / "config.json"),
    )
    write_atomically(folder / name, text)
    return folder / name


def render(template: str, **values: Any) -> str:
    """The text of a page from a template beside this file; values are escaped, control characters in them too."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    return environment.get_template(template).render(**values)


def _image(folder: Path, caption: str, path: str | Path) -> tuple[str, str, int, int]:
    """Caption, link, width and height; an empty link where the file is missing or not a picture."""
    relative = PurePosixPath(str(path).replace("\\", "/"))
    if relative.is_absolute() or PureWindowsPath(str(path)).drive or ".." in relative.parts:
        raise ValueError(f"picture {str(path)!r} must be a path inside the run folder, relative to it")
    try:
        with PIL.Image.open(folder / relative) as image:
            width, height = image.size
    except OSError as error:
        logger.warning("%s: picture left out of report.html: %s", folder / relative, error)
        return caption, "", 0, 0
    return caption, quote(relative.as_posix()), width, height


def _embedded(folder: Path, caption: str, path: str | Path) -> tuple[str, str, int, int]:
    """As `_image`, with the content of the file in place of the link."""
    caption, link, width, height = _image(folder, caption, path)
    if link:
        content = b64encode((folder / path).read_bytes()).decode()
        link = f"data:{guess_type(Path(path).name)[0]};base64,{content}"
    return caption, link, width, height


def _configuration(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    try:
        return [(name, _text(value)) for name, value in _flat(parse_json(read_bytes(path), path))]
    except (ValueError, RecursionError) as error:
        logger.warning("configuration left out of report.html: %s", error)
        return []


def _flat(content: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested dicts as (dotted name, value)."""
    if isinstance(content, Mapping) and content:
        for name, value in content.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, content


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(item)}" for name, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "–"
    return str(value)
