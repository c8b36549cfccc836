"""Shards: tar archives, tables of images, results of clusters."""

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from detseg.cluster.evaluation import class_masks_in, detections_in
from detseg.cluster.images import images_of, open_source
from detseg.cluster.manifest import MANIFEST, Manifest, begin
from detseg.cluster.results import Mask, Row, encode
from detseg.cluster.units import Unit
from detseg.data.formats import read_annotations
from detseg.data.formats.webdataset_write import write_shards
from tests.fuzz import seeds
from tests.fuzz.forms_data import reading
from tests.fuzz.harness import Form

NAMES = {"a.png": 1, "b.png": 2}
CATEGORIES = [(7, "rose"), (3, "daisy")]
HALVES = Mask([12, 16], "P3P3"), Mask([12, 16], "0P3P3")  # of an image


# ------------------------------------------------------------------ archives


def make_shards(folder: Path) -> list[Path]:
    made = folder.with_name(f"{folder.name}-made")
    seeds.coco(made)
    write_shards(read_annotations(made / "train.json"), folder, "train")
    return sorted(folder.iterdir())


def make_labelled(folder: Path) -> list[Path]:
    return [archive(folder / "train-0.tar", {"1.png": b"", "1.cls": b"rose", "2.png": b"", "2.cls": b"daisy"})]


def make_images(folder: Path) -> list[Path]:
    return [archive(folder / "0.tar", {"1.png": b"", "1.json": b"{}", "b/2.png": b"", "3.txt": b"no image"})]


def archive(path: Path, members: dict[str, bytes]) -> Path:
    """An archive of these members; what is called .png is an image."""
    with tarfile.open(path, "w") as tar:
        for seed, (name, content) in enumerate(members.items()):
            info, content = tarfile.TarInfo(name), _image(seed) if name.endswith(".png") else content
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read_shards(folder: Path, gives: str) -> None:
    with _cache(folder):
        reading("webdataset", gives)(folder)


def read_images(folder: Path, name: str, kind: Any) -> None:
    for source in images_of(Unit("unit", kind, (name,)), str(folder)):
        called, pixels = open_source(source, 3)
        if called == name and isinstance(pixels, ValueError):  # an image's own error is told with its name
            raise pixels


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """The index of archives lies beside a folder."""
    with patch.dict(os.environ, DETSEG_CACHE=str(folder.with_name(f"{folder.name}-cache"))):
        yield


# ------------------------------------------------------------------ tables


def make_table(folder: Path) -> list[Path]:
    import pyarrow
    from pyarrow import parquet

    rows = [{"id": number, "image": {"bytes": _image(number), "path": f"{number}.png"}} for number in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "0.parquet")
    return [folder / "0.parquet"]


# ------------------------------------------------------------------ results


def make_results(folder: Path, ending: str, damaged: str, boxes: bool = True) -> list[Path]:
    manifest = Manifest("run", "", {}, CATEGORIES, ending, "detect" if boxes else "segment")
    begin(str(folder), manifest, [])
    placed: list[list[float]] = [[1, 2, 8.5, 9], [0, 0, 16, 12]] if boxes else []
    rows = [Row(name, 16, 12, placed, [0.9, 0.5], [1, 0], ["daisy", "rose"], list(HALVES)) for name in NAMES]
    (folder / f"0.{ending}").write_bytes(encode([*rows, Row("c.png", error="cut short")], ending))
    return [folder / damaged]


def read_results(folder: Path, boxes: bool = True) -> None:
    if boxes:
        detections_in(str(folder), NAMES)
        return
    for masks in class_masks_in(str(folder), NAMES).values():
        masks.label_map(12, 16)


def _image(seed: int) -> bytes:
    with io.BytesIO() as file:
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "png")
        return file.getvalue()


def _results(name: str, ending: str, damaged: str, boxes: bool = True, **more: Any) -> Form:
    make: Callable[[Path], list[Path]] = partial(make_results, ending=ending, damaged=damaged, boxes=boxes)
    return Form(f"results-{name}", make, partial(read_results, boxes=boxes), **more)


FORMS = [
    Form("shards", make_shards, partial(read_shards, gives="objects")),
    Form("shards-labels", make_labelled, partial(read_shards, gives="labels")),
    Form("shards-images", make_images, partial(read_images, name="0.tar", kind="archive")),
    _results("manifest", "jsonl", MANIFEST),
    _results("jsonl", "jsonl", "0.jsonl"),
    _results("masks-jsonl", "jsonl", "0.jsonl", boxes=False),
]
if find_spec("pyarrow") is not None:  # of the extra `cluster`
    FORMS += [
        Form("table", make_table, partial(read_images, name="0.parquet", kind="table")),
        _results("parquet", "parquet", "0.parquet"),
        _results("masks-parquet", "parquet", "0.parquet", boxes=False),
    ]
