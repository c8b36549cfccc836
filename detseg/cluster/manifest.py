"""What a folder of results is of: the model and the options, so that no other ones are mixed in."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from detseg.cluster.results import shards_in
from detseg.cluster.storage import file_names, place_in, read, write
from detseg.data.tar_shards import address_of, is_address
from detseg.described import Number
from detseg.json_text import as_declared, parse_json
from detseg.options import option
from detseg.reading import FileError

MANIFEST = "manifest.json"
FORMAT = 1


class Manifest(msgspec.Struct):
    """What the shards of a folder have in common."""

    model: str  # as it was named
    weights: str  # SHA-256 of its files
    options: dict[str, Any]  # those that differ from their defaults
    categories: list[tuple[Number, str]]  # id and name of each label
    shard_format: str
    task: Literal["detect", "localize", "segment", "classify"] = "detect"  # of the model
    format: int = FORMAT


def fingerprint(files: Mapping[str, bytes]) -> str:
    """SHA-256 of the files of a model."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()


def holds_results(path: Path) -> bool:
    """Whether a path is of a folder of shards of results; an address of fsspec, s3://…, is taken for one."""
    return is_address(address_of(path)) or (path / MANIFEST).is_file()


def read_manifest(folder: str) -> Manifest:
    """The manifest of a folder; raises FileError where it is missing or wrong."""
    place = place_in(folder, MANIFEST)
    if MANIFEST not in file_names(folder):
        raise FileError(f"{folder}: no results of `detseg predict --engine ray` here ({MANIFEST} is missing)")
    manifest: Manifest = as_declared(parse_json(read(place), place), Manifest, place, "name another folder")
    return manifest


def begin(folder: str, manifest: Manifest, units: Sequence[str]) -> set[str]:
    """Make a folder ready for results, or for the rest of them; returns the names of the units that are done.

    Raises:
        ValueError: the folder holds other files, or results of another model, of other options or images.
    """
    content = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    names = {name for name in file_names(folder) if not name.startswith(".")}
    if not names:
        write(place_in(folder, MANIFEST), content)
        return set()
    if MANIFEST not in names:
        raise ValueError(f"{folder}: holds files that are no results of --engine ray; name another --output")
    earlier, manifest = read_manifest(folder), msgspec.json.decode(content, type=Manifest)
    remedy = "give the same command to go on with it, or name another --output"
    if differing := _differing(earlier, manifest):
        raise ValueError(f"{folder}: was begun with another {differing}; {remedy}")
    done = set(shards_in(folder))
    if others := sorted(done - set(units)):
        raise ValueError(f"{folder}: holds results of other images ({others[0]}, {len(others)} such shards); {remedy}")
    return done


def _differing(earlier: Manifest, manifest: Manifest) -> str:
    """What is not the same any more, in words."""
    if (earlier.weights, earlier.categories) != (manifest.weights, manifest.categories):
        return f"model, {earlier.model}"
    for name in sorted(earlier.options.keys() | manifest.options.keys()):
        before, now = earlier.options.get(name), manifest.options.get(name)
        if before != now:
            return f"{option(name)}, {'the default' if before is None else before}"
    if earlier.shard_format != manifest.shard_format:
        return f"--shard-format, {earlier.shard_format}"
    return "" if earlier.format == manifest.format else f"version, {earlier.format}"
