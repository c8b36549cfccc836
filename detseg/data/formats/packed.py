"""Files that `detseg pack` wrote, as a format of objects, of masks and of labels; see `detseg.data.pack`."""

from functools import partial
from pathlib import Path
from typing import Any

from detseg.data.annotations import AnnotationError
from detseg.data.formats.format import Format, Gives, Sources
from detseg.data.pack.file import UNDIVIDED, is_pack


def _find(task: str, path: Path, images: Any, **mask_options: Any) -> Sources | None:
    if not is_pack(path):
        return None
    if any(value is not None for value in mask_options.values()):
        raise AnnotationError(f"{path}: its masks and what is ignored in them were chosen when it was packed")
    from detseg.data.pack.datasets import packed_sources  # here: it brings OpenCV

    sources = packed_sources(path, task)
    undivided = task == "classification" and list(sources) == [UNDIVIDED]
    return {"": sources[UNDIVIDED]} if undivided else sources


def _format(gives: Gives, task: str) -> Format:
    looks_for = "an .h5 file that `detseg pack` wrote"
    return Format("packed", "packed", looks_for, partial(_find, task), gives=gives, takes_images=False)


FORMATS = [_format("objects", "detection"), _format("masks", "segmentation"), _format("labels", "classification")]
