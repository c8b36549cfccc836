"""A data set of any form as one that is written in another: all its splits, checked, with one list of categories."""

import logging
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from detseg.data.annotations import AnnotationError, Annotations
from detseg.data.base import ImageSet, Set, refuse_pack
from detseg.data.checks.validate import checked
from detseg.data.formats import (
    FORMATS,
    NotRecognisedError,
    find_label_sources,
    find_mask_sources,
    find_sources,
    formats_of,
)
from detseg.data.formats.format import Format, Gives, Sources, asked
from detseg.data.formats.locate import PlaceImages
from detseg.data.formats.write import CrowdChoice, write_dataset
from detseg.data.join import joined
from detseg.data.pack.file import is_pack, read_pack_info
from detseg.data.splits import divided, only_set
from detseg.reading import require_file

log = logging.getLogger(__name__)

_FIND: dict[Gives, Callable[..., Sources]] = {
    "objects": find_sources,
    "masks": find_mask_sources,
    "labels": find_label_sources,
}
_KINDS: dict[Gives, str] = {"objects": "objects", "masks": "masks", "labels": "images with one class each"}
_PACKED: dict[str, Gives] = {"detection": "objects", "segmentation": "masks", "classification": "labels"}


class Found(NamedTuple):
    """What a path holds."""

    gives: Gives
    format: Format | None  # None where it is not at the path itself, but below it


def recognise(path: Path, images: Path | None = None) -> Found:
    """What is at a path: masks, objects or labelled images, the first of these that is there.

    A VOC folder may hold boxes and, of some images, masks: there it is the boxes.

    Raises:
        AnnotationError: the path does not exist or is damaged.
        NotRecognisedError: it holds none; the message lists what was looked for.
    """
    if is_pack(path):
        gives = _PACKED[read_pack_info(path).task]
        return Found(gives, _at(path, images, gives))
    if require_file(path).exists():
        kinds: list[Gives] = ["objects", "masks"] if (path / "Annotations").is_dir() else ["masks", "objects"]
        for gives in kinds:
            if (format := _at(path, images, gives)) is not None:
                return Found(gives, format)
    errors = []
    for gives in _FIND:  # also by weaker signs, and in folders below
        try:
            find_sources(path, images, gives=gives, **_options(gives))
            return Found(gives, _at(path, images, gives))
        except NotRecognisedError as error:
            errors += str(error).splitlines()
    raise NotRecognisedError("\n".join(dict.fromkeys(errors)))


def _at(path: Path, images: Path | None, gives: Gives) -> Format | None:
    """The format of this kind that knows a path by itself."""
    return next((f for f in asked(path, gives) if f.find(path, images, **_options(gives))), None)


def _options(gives: Gives) -> dict[str, None]:
    """What the formats of a kind are given beside path and images."""
    names = signature(find_mask_sources).parameters.keys() - {"path", "images"} if gives == "masks" else ()
    return dict.fromkeys(names)


def require_kind(path: Path, found: Found, to: Format) -> None:
    """Raise AnnotationError where a format is for another kind of data than what was found; masks can be drawn."""
    if (found.gives, to.gives) == ("objects", "labels"):
        find_label_sources(path)  # its message says what to do
    if found.gives != to.gives and (found.gives, to.gives) != ("objects", "masks"):
        why = " Masks do not tell where one object ends and the next begins." if found.gives == "masks" else ""
        raise AnnotationError(
            f"{path}: holds {_KINDS[found.gives]}, --to {to.name} is for {_KINDS[to.gives]}.{why} If it has "
            f"{_KINDS[to.gives]} too, name their file; formats for {_KINDS[found.gives]} are "
            f"{', '.join(format.name for format in formats_of(found.gives) if format.write is not None)}"
        )


def read_splits(
    path: Path,
    gives: Gives,
    *,
    images: Path | None = None,
    val_share: float | None = None,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """All splits of a data set, training first, with the categories of the first; a set without splits is "train".

    Args:
        gives: "objects", "masks" (drawn from polygons, if need be) or "labels".
        images: the folder of the images, where they are not found by themselves.
        val_share: the share of a set without splits that becomes "val", see `detseg.data.splits.divided`.
        only: the splits that are wanted.

    Raises:
        AnnotationError: nothing of the kind is there, a split is missing or damaged, or categories differ.
    """
    sources = _FIND[gives](path, images=images)
    if missing := [split for split in only if split not in sources]:
        found = ", ".join(name or "a set without splits" for name in sources)
        raise AnnotationError(f"{path}: has no split {' and '.join(missing)}; found: {found}")
    if val_share is not None:
        parts = divided(only_set(path, sources), val_share)
        test = {"test": sources["test"]().match(parts["train"].categories)} if "test" in sources else {}
        return parts | test
    order = [name for name in ("", "train", "val", "test", *sources) if name in (only or sources)]
    splits = {split or "train": sources[split]() for split in dict.fromkeys(order)}
    reference = next(iter(splits.values())).categories
    return {split: data.match(reference) for split, data in splits.items()}


def read_whole(
    path: Path,
    gives: Gives,
    *,
    images: Path | None = None,
    without_test: bool = False,
    print_line: Callable[[str], None] = log.info,
) -> Any:
    """All splits of a data set as one, not checked; arguments and errors as of `read_splits`.

    Args:
        without_test: leave a test split out.
        print_line: is told what was joined and left out.
    """
    splits = read_splits(path, gives, images=images)
    if without_test and len(splits) > 1 and "test" in splits:
        print_line(f"test: {len(splits.pop('test'))} images, left out of the folds")
    if len(splits) > 1:
        counts = ", ".join(f"{len(data)} {split}" for split, data in splits.items())
        print_line(f"{path}: its splits ({counts} images) are taken as one set")
    return joined(list(splits.values()), str(path))


def checked_splits(splits: Mapping[str, Set], *, repairing: bool, print_line: Callable[[str], None]) -> dict[str, Set]:
    """The splits without errors, see `checked`; those of all splits are in one AnnotationError."""
    result: dict[str, Set] = {}
    errors = []
    for split, data in splits.items():
        train = None if split == "train" else splits.get("train")
        try:
            result[split] = checked(data, train, repairing=repairing, print_line=print_line)
        except AnnotationError as error:
            errors.append(f"{split}: {error}" if len(splits) > 1 else str(error))
    if errors:
        raise AnnotationError("\n".join(errors))
    return result


def writable() -> dict[str, Format]:
    """The formats of all kinds of data that can be written, by name."""
    return {format.name: format for format in FORMATS if format.write is not None}


def format_named(name: str) -> Format:
    """The format of a name, which must have a writer, or ValueError is raised."""
    known = writable()
    if name not in known:
        readable = "can be read only" if name in {format.name for format in FORMATS} else "is none"
        raise ValueError(f"--to {name}: {readable}; formats that can be written are {', '.join(sorted(known))}")
    return known[name]


def write_splits(
    splits: Mapping[str, ImageSet],
    folder: Path,
    to: Format,
    *,
    images: PlaceImages = "link",
    crowd: CrowdChoice = "error",
) -> None:
    """Write all splits into a folder; what the format cannot hold is counted and logged, see `write_dataset`.

    Raises:
        AnnotationError: there are objects that the format cannot hold, or names that it cannot tell apart.
        ValueError: images are packed.
    """
    for data in splits.values():
        refuse_pack(data.pack)
    # Before anything is written: else the first splits would be there without the others.
    ignored = sum(int(data.iscrowd.sum()) for data in splits.values() if isinstance(data, Annotations))
    if ignored and crowd == "error" and "crowd" not in to.holds:
        raise AnnotationError(
            f"{folder}: not written, {to.title} cannot mark the {ignored} crowd (or difficult) objects as ignored; "
            "--crowd drop leaves them out, --crowd keep writes them as ordinary objects"
        )
    for split, data in splits.items():
        if isinstance(data, Annotations):
            write_dataset(data, folder, split, to=to.name, images=images, crowd=crowd)
        else:
            assert to.write is not None
            to.write(data, folder, split, images=images)
    if images == "keep":
        try:
            _FIND[to.gives](folder)
        except AnnotationError as error:
            log.warning(
                "%s: %s is read with its images in the folder only: put them there (%s)", folder, to.title, error
            )


def own_format(found: Found) -> Format:
    """The format to write what was read from another one: the same, else the first of its kind with a writer."""
    if found.format is not None and found.format.write is not None:
        return found.format
    known = [format for format in formats_of(found.gives) if format.write is not None]
    if not known:
        raise ValueError(f"no format of {found.gives} can be written")
    return known[0]


def told(splits: Mapping[str, ImageSet]) -> str:
    """How much there is, in words: "6 train and 5 val images with 20 objects of 2 classes"."""
    counts = [f"{len(data)} {split}" for split, data in splits.items()]
    images = " and ".join(filter(None, [", ".join(counts[:-1]), counts[-1]]))
    sets = list(splits.values())
    objects = sum(len(data.ids) for data in sets if isinstance(data, Annotations))
    holding = f" with {objects} objects" if isinstance(sets[0], Annotations) else ""
    return f"{images} images{holding} of {len(sets[0].categories)} classes"
