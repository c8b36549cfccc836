"""Writer of WebDataset shards, see `detseg.data.formats.webdataset`."""

import io
import tarfile
from pathlib import Path
from typing import Any

import msgspec

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.formats.coco import written_objects
from detseg.data.formats.locate import IMAGE_EXTENSIONS, PlaceImages, require_writable, unique_stems
from detseg.data.formats.webdataset_samples import CATEGORIES
from detseg.data.shard_members import read_content
from detseg.files import replacing, write_atomically

PER_SHARD = 1000  # samples


def write_shards(annotations: Annotations, folder: Path, split: str, images: PlaceImages = "link") -> None:
    """Write one split as shards `SPLIT-000000.tar` and so on, and `categories.json`; images are always inside."""
    require_writable(annotations, folder)
    categories = [
        {"id": number, "name": name}
        for number, name in zip(
            annotations.category_texts.written(category.id for category in annotations.categories),
            annotations.names,
            strict=True,
        )
    ]
    content, file = msgspec.json.format(msgspec.json.encode(categories)), folder / CATEGORIES
    if file.is_file() and file.read_bytes() != content:
        raise AnnotationError(f"{file}: the folder already holds other categories; write to a new folder")
    objects, keys = written_objects(annotations), _keys(annotations)
    for number, first in enumerate(range(0, max(1, len(annotations)), PER_SHARD)):
        rows = range(first, min(first + PER_SHARD, len(annotations)))
        with replacing(folder / f"{split}-{number:06}.tar") as temporary, tarfile.open(temporary, "w") as tar:
            for row in rows:
                _add(tar, annotations, row, keys[row], objects[annotations.objects(row)])
    write_atomically(file, content)


def _keys(annotations: Annotations) -> list[str]:
    """A key for every image, its name without points: what follows the first is the extension."""
    found: dict[str, None] = {}
    for stem in unique_stems(annotations, set()):
        key = stem.replace(".", "_")
        while key in found:
            key += "_"
        found[key] = None
    return list(found)


def _add(tar: tarfile.TarFile, annotations: Annotations, row: int, key: str, objects: list[dict[str, Any]]) -> None:
    path = str(annotations.paths[row])
    extension = Path(path).suffix.lower()
    if extension not in IMAGE_EXTENSIONS:
        raise ValueError(f"{path}: its ending is none of an image's, by which a shard tells what is one; rename it")
    width, height = annotations.sizes[row].tolist()
    image_id = annotations.image_texts.written([int(annotations.image_ids[row])])[0]
    for item in objects:
        del item["image_id"]  # said once
    text = {"image_id": image_id, "width": width, "height": height, "annotations": objects}
    try:
        content = read_content(path)
    except OSError as error:
        raise ValueError(f"{path}: the image cannot be put into a shard: {error.strerror}") from error
    for ending, held in ((extension, content), (".json", msgspec.json.encode(text))):
        info = tarfile.TarInfo(f"{key}{ending}")
        info.size, info.mode = len(held), 0o644
        tar.addfile(info, io.BytesIO(held))
