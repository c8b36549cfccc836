"""The doors of files for atheris, which looks for ways through them by coverage: `run_atheris.py` runs them.

A target takes bytes; whatever it raises but a `FileError` is a find. Each begins with a good file of its kind.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import seeds

FOLDER = Path(tempfile.mkdtemp(prefix="atheris-"))


class Target(NamedTuple):
    """What reads the bytes, and the files to begin with."""

    read: Callable[[bytes], object]
    start: list[bytes]


def json_target() -> Target:
    """JSON by its door, then as COCO."""
    from detseg.data.formats.coco import read_coco
    from detseg.json_text import parse_json

    (file,) = seeds.coco(FOLDER)
    good = file.read_bytes()

    def read(content: bytes) -> None:
        parse_json(content, "file")
        file.write_bytes(content)
        read_coco(file)

    return Target(read, [good])


def xml_target() -> Target:
    """XML as VOC and as CVAT."""
    from detseg.data.formats import find_sources

    boxes = seeds.voc(FOLDER / "voc")[0]
    images = seeds.cvat(FOLDER / "cvat")[0]
    start = [boxes.read_bytes(), images.read_bytes()]

    def read(content: bytes) -> None:
        for file in (boxes, images):
            file.write_bytes(content)
            for source in find_sources(file.parent.parent if file is boxes else file).values():
                source()

    return Target(read, start)


def yaml_target() -> Target:
    """YAML as the data.yaml of YOLO."""
    from detseg.data.formats.yolo_yaml import read_yaml

    file = seeds.yolo(FOLDER)[-1]
    good = file.read_bytes()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        read_yaml(file)

    return Target(read, [good])


def hdf5_target() -> Target:
    """HDF5 as a pack."""
    from detseg.data.formats import find_sources
    from tests.fuzz.forms_images import make_pack

    (FOLDER / "pack").mkdir()
    (file,) = make_pack(FOLDER / "pack", "detection")
    good = file.read_bytes()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        for source in find_sources(file).values():
            source()

    return Target(read, [good])


def image_target() -> Target:
    """Images of all kinds."""
    from detseg.data.images import decode_image
    from tests.fuzz.forms_images import IMAGES, make_images

    start = []
    for form in IMAGES:
        (FOLDER / form).mkdir()
        start += [file.read_bytes() for file in make_images(FOLDER / form, form)]
    return Target(lambda content: decode_image(content, "file"), start)


TARGETS = {"json": json_target, "xml": xml_target, "yaml": yaml_target, "hdf5": hdf5_target, "image": image_target}
