"""A worker: holds a model once, looks at the images of units, and writes a shard of results of each."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detseg.cluster.images import images_of, open_source
from detseg.cluster.results import Row, encode, read_columns, row_of
from detseg.cluster.storage import exists, place_in, write
from detseg.cluster.units import Unit
from detseg.console import plain, text_of_bytes
from detseg.data.limits import CLEAR, AtTheCap
from detseg.reading import cause
from detseg.sources import ahead, in_batches

ERRORS = 3  # that a summary has the words of

Load = Callable[[Path, int], Any]
"""Opens the model of a run folder, or an exported one, to compute with so many threads."""


@dataclass(frozen=True)
class Job:
    """What workers need to know.

    Attributes:
        model: the file name of the model's folder or file.
        load: see `Load`; it is pickled.
        folder: that relative paths of images are seen from.
        output, ending: folder and format of the shards.
        at_once: images at a time.
        threads: of a worker.
        options: of the model's `stream`.
        classes: labels to keep; all if there are none.
    """

    model: str
    load: Load
    folder: str
    output: str
    ending: str
    at_once: int = 8
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def shard_of(self, unit: Unit) -> str:
        """The address of a unit's shard."""
        return place_in(self.output, f"{unit.name}.{self.ending}")


@dataclass
class Summary:
    """What came of a unit."""

    unit: str
    images: int = 0  # looked at
    objects: int = 0
    errors: int = 0  # images that could not be read
    first: tuple[str, ...] = ()  # what is wrong with the first of them
    at_the_cap: int = 0  # images with as many objects as are looked for
    seconds: float = 0.0
    failed: str = ""  # why there is no shard


def model_files(path: Path) -> dict[str, bytes]:
    """The files of a model, by name: of a run folder, or of an exported file; raises OSError."""
    names = ("model.json", "model.safetensors") if path.is_dir() else (path.name, path.with_suffix(".bin").name)
    folder = path if path.is_dir() else path.parent
    return {name: (folder / name).read_bytes() for name in dict.fromkeys(names) if (folder / name).is_file()}


class Worker:
    """See the module.

    Args:
        job: what to do.
        files: those of the model: it need not be on the worker's machine.
    """

    def __init__(self, job: Job, files: Mapping[str, bytes]) -> None:
        self.job = job
        with tempfile.TemporaryDirectory(prefix="detseg-", ignore_cleanup_errors=True) as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            path = Path(folder) / job.model
            self.model = job.load(path if path.is_file() else Path(folder), job.threads)

    def do(self, unit: Unit) -> Summary:
        """Look at the images of a unit and write its shard, unless it is there: of a try that was lost afterwards."""
        started = time.monotonic()
        shard = self.job.shard_of(unit)
        try:
            if exists(shard):
                return _summary_of(unit, shard)
            most = getattr(self.model, "max_detections", None)  # which only detectors have
            cap = AtTheCap(most, max(self.job.options.get("score_threshold", CLEAR), CLEAR))
            rows = list(self._rows(unit, cap))
            write(shard, encode(rows, self.job.ending))
        except Exception as error:  # whatever it is, the other units are done
            return Summary(unit.name, failed=f"{unit.sources[0]}: {cause(error)}")
        errors = [f"{row.image}: {row.error}" for row in rows if row.error is not None]
        return Summary(
            unit.name,
            images=len(rows) - len(errors),
            objects=sum(len(row.boxes) for row in rows),
            errors=len(errors),
            first=tuple(errors[:ERRORS]),
            at_the_cap=cap.met,
            seconds=time.monotonic() - started,
        )

    def _rows(self, unit: Unit, cap: AtTheCap) -> Iterator[Row]:
        """A row for each image, in order."""
        sources = images_of(unit, self.job.folder)
        opened = ahead(lambda source: open_source(source, self.model.channels), sources, self.job.at_once)
        for batch in in_batches(opened, self.job.at_once):
            pixels = [image for _, image in batch if not isinstance(image, ValueError)]
            every = self.model.stream(pixels, **self.job.options)
            for name, image in batch:
                if isinstance(image, ValueError):
                    yield Row(text_of_bytes(name), error=str(image).removeprefix(f"{plain(name)}: "))
                    continue
                found = next(every)
                if cap.cap is not None:
                    cap.add(found.scores)
                found = found.of_classes(self.job.classes) if self.job.classes else found
                yield row_of(name, image.shape, found)


def _summary_of(unit: Unit, shard: str) -> Summary:
    """Of a shard that is there."""
    columns = read_columns(shard)
    pairs = zip(columns.images, columns.errors, strict=True)
    errors = [f"{image}: {error}" for image, error in pairs if error is not None]
    images = len(columns.images) - len(errors)
    return Summary(unit.name, images, len(columns.boxes), len(errors), tuple(errors[:ERRORS]))
