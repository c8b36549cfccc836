"""Where the images and the masks of a set lie: by the usual names of folders, else by files that pair by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

from detseg.data.formats.format import SPLITS
from detseg.data.formats.locate import IMAGE_EXTENSIONS, list_images, read_lines
from detseg.data.formats.mask_pairs import CITYSCAPES, MaskNames, Pairs, is_named_as_mask, mask_files, pair

VOC_LISTS = "ImageSets/Segmentation"
LISTS = ("", VOC_LISTS, "ImageSets", "splits")
CLASS_FILES = (
    *("classes.txt", "labels.txt", "class_names.txt", "labelmap.txt", "label_colors.txt", "class_dict.csv"),
    "_classes.csv",
)
# Likeliest first. Those of the second line also hold other things, so files in them must be named as the images.
IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img", "pngimages", "leftimg8bit", "photos", "frames", "rgb")
SURE = ("masks", "segmentationclass", "mask", "pedmasks", "gtfine", "annot", "groundtruth", "gt", "segmentations")
UNSURE = ("annotations", "annotation", "annots", "ann", "labels", "label", "segmentation", "targets", "target")
ONE_CHANNEL = {"1", "L", "P", "I;16"}
MOST_FOLDERS = 10  # that are looked into where none has a usual name
_SPLIT = "|".join(name for names in SPLITS.values() for name in sorted(names, key=len, reverse=True))
_NAME = re.compile(
    rf"(?P<before>{_SPLIT})?[_\- ]*(?P<role>[a-z]*?)[_\- ]*(?:dir|folder)?[_\- ]*(?P<after>{_SPLIT})?\d*"
)


class Layout(NamedTuple):
    """Where the parts of a mask dataset lie."""

    root: Path
    splits: dict[str, Pairs]
    class_files: tuple[Path, ...]  # likeliest first
    is_voc: bool = False
    is_cityscapes: bool = False
    spare: tuple[str, ...] = ()  # masks that no image has
    bare: tuple[str, ...] = ()  # images without a mask, left out where masks are meant to be of some images only
    tried: str = ""  # the folders, for messages
    matches: int = 0  # how many images have a mask


class _Place(NamedTuple):
    """A folder of images and a folder of their masks, which may be the same one."""

    images: Path
    masks: Path


def find_layout(
    path: Path, masks: str | None = None, images: str | Path | None = None, only_named: bool = False
) -> Layout | None:
    """The layout of a folder, or of the images of a list in it; None if there are no masks.

    `masks` and `images` are folders, by name in the folder or by path, where they are not those usual. With
    `only_named`, a folder that holds both, and folders that only look so, do not count.
    """
    if not path.is_dir() and path.suffix.lower() != ".txt":
        return None
    root = root_of(path)
    lists = {"": path} if path != root else _lists(root)
    asked = None if masks is None else _folder(root, masks)
    named = None if images is None else _folder(root, str(images))
    if masks is not None and asked is None and images is None and path == root and (inside := _inside(root, (), masks)):
        return _layout(root, inside, {}, masks)
    if (masks is not None and asked is None) or (images is not None and named is None):
        return None
    whole_first = bool(lists)  # they say what is of which split, also where folders are called so
    candidates = _asked(root, asked, named, whole_first) if asked or named else _usual(root, whole_first, only_named)
    for splits in candidates:
        if path != root and "" not in splits:
            continue
        layout = _layout(root, splits, lists, masks)
        if layout is not None:
            return layout
    return None


def root_of(path: Path) -> Path:
    """The folder of the set that a path means: itself, or what a list of images lies in."""
    if path.is_dir():
        return path
    return path.parents[2] if path.parent.as_posix().endswith(VOC_LISTS) else path.parent


# ------------------------------------------------------------------ folders


def _asked(root: Path, masks: Path | None, images: Path | None, whole_first: bool) -> Iterator[dict[str, _Place]]:
    """The folders that are named, with the usual ones for the other kind."""
    around = [root, *([masks.parent] if masks else []), *([images.parent] if images else [])]
    folders = [folder for place in dict.fromkeys(around) for folder in _folders(place)]
    for image_folder in [images] if images else _by_role(folders, IMAGE_FOLDERS):
        for mask_folder in [masks] if masks else [*_by_role(folders, SURE + UNSURE), root]:
            if image_folder != mask_folder:
                yield from _places(image_folder, mask_folder, whole_first)


def _usual(root: Path, whole_first: bool, only_named: bool) -> Iterator[dict[str, _Place]]:
    """The pairs of folders by usual names, likeliest first; then one folder for both; then whatever pairs by name."""
    folders = _folders(root)
    folders += [
        below for folder in folders if folder.name == "imgsFine" for below in _folders(folder)
    ]  # CVAT's Cityscapes
    images = _by_role(folders, IMAGE_FOLDERS)
    for roles in (SURE, UNSURE):
        for image_folder, mask_folder in product(images, _by_role(folders, roles)):
            yield from _places(image_folder, mask_folder, whole_first)
        yield from filter(None, (_inside(root, roles), _beside(folders, roles)))
    if only_named:
        return
    named = {folder.name.lower(): folder for folder in folders}
    for name, joint, role in product(named, ("", "_", "-"), SURE):  # default with defaultannot
        if f"{name}{joint}{role}" in named:
            yield {"": _Place(named[name], named[f"{name}{joint}{role}"])}
    yield from filter(None, ({split: _Place(folder, folder) for split, folder in _splits_of(root)},))
    yield from ({"": _Place(folder, folder)} for folder in (*images, root))
    if len(folders) <= MOST_FOLDERS:
        modes = {folder: _modes(folder) for folder in folders}
        yield from (
            {"": _Place(image_folder, mask_folder)}
            for image_folder, mask_folder in product(folders, folders)
            if modes[image_folder] == {"RGB"} and modes[mask_folder] and modes[mask_folder] <= ONE_CHANNEL
        )


def _places(images: Path, masks: Path, whole_first: bool) -> Iterator[dict[str, _Place]]:
    """A pair of folders: by the splits in them, or whole."""
    own, theirs = dict(_splits_of(images)), dict(_splits_of(masks))
    divided = {split: _Place(own[split], theirs[split]) for split in own if split in theirs}
    whole = {"": _Place(images, masks)}
    yield from filter(None, (whole, divided) if whole_first else (divided, whole))


def _inside(root: Path, roles: tuple[str, ...], masks: str | None = None) -> dict[str, _Place]:
    """train/images with train/masks."""
    found: dict[str, _Place] = {}
    for split, folder in _splits_of(root):
        below = _folders(folder)
        theirs = _by_role(below, roles) if masks is None else [f for f in below if f.name == masks]
        for images, own in product(_by_role(below, IMAGE_FOLDERS), theirs):
            found.setdefault(split, _Place(images, own))
    return found


def _beside(folders: list[Path], roles: tuple[str, ...]) -> dict[str, _Place]:
    """train_images with train_masks, train with trainannot."""
    found: dict[str, _Place] = {}
    for split in SPLITS:
        of_split = [folder for folder in folders if _split_and_role(folder.name)[0] == split]
        own = [folder for folder in of_split if _split_and_role(folder.name)[1] in (*IMAGE_FOLDERS, "")]
        for images, masks in product(own, _by_role(of_split, roles, any_split=True)):
            found.setdefault(split, _Place(images, masks))
    return found


def _layout(root: Path, splits: dict[str, _Place], lists: dict[str, Path], asked: str | None) -> Layout | None:
    """The layout of these folders; None if no mask in them is an image's."""
    names = {split: _mask_names(place) for split, place in splits.items()}
    files = {path for masks in names.values() for path in masks.files}
    first = next(iter(splits.values()))
    role = _split_and_role(first.masks.name)[1]
    # JPEG files in labels/ and the like are images to look at.
    if not files or (asked is None and role in UNSURE and all(map(_is_jpeg, files))):
        return None
    pairs = {split: pair(_images(place, names[split]), place.images, names[split]) for split, place in splits.items()}
    if lists and "" in pairs:
        pairs, spare = _listed(lists, pairs[""], first, names[""]), []
    else:
        spare = sorted(files - {mask for found in pairs.values() for _, mask in found})
    bare: list[str] = []
    is_voc = _key(first.images.name) == "jpegimages"
    if is_voc and not lists:  # its images of detection have no masks: those that have one are meant
        bare = [image for found in pairs.values() for image, mask in found if mask not in files]
        pairs = {split: [item for item in found if item[1] in files] for split, found in pairs.items()}
    matched = [mask for found in pairs.values() for image, mask in found if mask in files and mask != image]
    # Folders that are named, and images/ with masks/, are those of the set even if no file fits: that is told later.
    if not matched and asked is None and (first.images == first.masks or role not in SURE):
        return None
    return Layout(
        root,
        pairs,
        _class_files(root, splits, asked),
        is_voc=is_voc,
        is_cityscapes=bool(matched) and all(mask.endswith(f"{CITYSCAPES}.png") for mask in matched),
        spare=tuple(spare),
        bare=tuple(bare),
        tried="; ".join(f"{place.images} with {place.masks}" for place in splits.values()),
        matches=len(matched),
    )


def _mask_names(place: _Place) -> MaskNames:
    """The masks of a pair of folders; of a single folder those files that are named so."""
    if place.images != place.masks:
        return MaskNames(place.masks)
    files = mask_files(place.masks)
    return MaskNames(place.masks, [path for path in files if not _is_jpeg(path) and is_named_as_mask(path)])


def _images(place: _Place, names: MaskNames) -> list[str]:
    """The images of a pair of folders, without the masks that lie among them or below."""
    masks = set(names.files)
    return [path for path in list_images(place.images) if path not in masks]


def _is_jpeg(path: str) -> bool:
    return path.lower().endswith((".jpg", ".jpeg"))


def unpaired(root: Path) -> tuple[Path, Path] | None:
    """A folder of photos and one of masks, as their first files look, where there is nothing but folders of images."""
    folders = _folders(root)
    if len(folders) > MOST_FOLDERS or any(_other_files(folder) for folder in (root, *folders)):
        return None
    modes = {folder: _modes(folder) for folder in folders}
    photos = [folder for folder in folders if modes[folder] == {"RGB"}]
    masks = [folder for folder in folders if modes[folder] and modes[folder] <= ONE_CHANNEL]
    return (photos[0], masks[0]) if photos and masks else None


def _other_files(folder: Path) -> bool:
    """Whether a folder holds annotations of another form, but for lists in the root."""
    endings = {entry.suffix.lower() for entry in folder.iterdir() if not entry.name.startswith(".")}
    return bool(endings & {".json", ".xml", ".yaml", ".yml"})


def _modes(folder: Path) -> set[str]:
    """How the first files of a folder hold their pixels, by Pillow's names: masks have one channel, photos colours."""
    from detseg.data.images import open_image

    found = set()
    for path in _first_images(folder):
        try:
            with open_image(path) as image:
                found.add("JPEG" if image.format == "JPEG" and image.mode != "RGB" else image.mode)
        except Exception:  # Pillow raises many kinds
            found.add("")
    return found


def _first_images(folder: Path) -> list[str]:
    """Three images of a folder or those below it."""
    found: list[str] = []
    for where, folders, names in os.walk(folder):
        folders.sort()
        found += [f"{where}{os.sep}{name}" for name in sorted(names) if name.lower().endswith(IMAGE_EXTENSIONS)][:3]
        if len(found) >= 3:
            break
    return found[:3]


def _class_files(root: Path, splits: Mapping[str, _Place], asked: str | None) -> tuple[Path, ...]:
    name = "" if asked is None else Path(asked).name
    # Of masks_species first classes_species.txt.
    own = [root / f"classes_{name.removeprefix('masks_')}.txt"] if name.startswith("masks_") else []
    near = [folder for place in splits.values() for folder in (place.masks, place.masks.parent)]
    folders = dict.fromkeys((root, *near))
    return (*own, *(folder / file for folder in folders for file in CLASS_FILES))


# ------------------------------------------------------------------ names of folders


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:  # which knows the kind of a hundred thousand entries without asking again
        return sorted(folder / e.name for e in entries if not e.name.startswith((".", "__")) and e.is_dir())


def _folder(root: Path, name: str) -> Path | None:
    """A folder by its name in the root, or by its path."""
    return next((folder for folder in (root / name, Path(name)) if folder.is_dir()), None)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _split_and_role(name: str) -> tuple[str, str]:
    """What a folder's name says: ("train", "annot") of trainannot, ("", "img") of img_dir, ("val", "") of val."""
    match = _NAME.fullmatch(name.lower())
    word = "" if match is None else match["before"] or match["after"] or ""
    split = next((split for split, spellings in SPLITS.items() if word in spellings), "")
    return (
        (split, match["role"]) if match is not None and split else ("", _key(re.sub(r"[_\- ]?dir$", "", name.lower())))
    )


def _by_role(folders: list[Path], roles: tuple[str, ...], any_split: bool = False) -> list[Path]:
    """The folders that are called so, in the order of the roles."""
    named = [(split, role, folder) for folder in folders for split, role in [_split_and_role(folder.name)]]
    return [folder for role in roles for split, own, folder in named if own == role and (any_split or not split)]


def _splits_of(root: Path) -> list[tuple[str, Path]]:
    """The folders that are called after splits, alone: train, valid."""
    names = {spelling: split for split, spellings in SPLITS.items() for spelling in spellings}
    found: dict[str, Path] = {}
    for folder in _folders(root):
        split = names.get(folder.name.lower())
        if split is not None:
            found.setdefault(split, folder)
    return [(split, found[split]) for split in SPLITS if split in found]


# ------------------------------------------------------------------ lists of images


def _lists(root: Path) -> dict[str, Path]:
    """train.txt, val.txt, ... in the root or where lists usually are."""
    for place in LISTS:
        files = {
            file.name.lower(): file for file in sorted((root / place).glob("*.[tT][xX][tT]"))
        }  # CVAT has Train.txt
        named = {split: [files[f"{n}.txt"] for n in names if f"{n}.txt" in files] for split, names in SPLITS.items()}
        if any(named.values()):
            return {split: found[0] for split, found in named.items() if found}
    return {}


def _listed(lists: Mapping[str, Path], pairs: Pairs, place: _Place, names: MaskNames) -> dict[str, Pairs]:
    """The splits of lists of images, which have one a line, with or without folder and extension."""
    meant = _meaning(pairs, place.images)
    of_image = dict(pairs)
    return {
        split: [
            (image, of_image.get(image) or names.of(image, place.images) or names.expected(image, place.images))
            for image in map(meant, read_lines(file))
        ]
        for split, file in lists.items()
    }


def _meaning(pairs: Pairs, images: Path) -> Callable[[str], str]:
    """A function that gives the image that a line means; where it is nowhere, the path it should have."""
    known: dict[str, str] = {}
    counts: dict[str, int] = {}
    for path, _ in pairs:
        stem = Path(path).stem
        counts[stem] = counts.get(stem, 0) + 1
    for path, _ in pairs:
        inside = os.path.relpath(path, images).replace(os.sep, "/")
        known.setdefault(inside, path)
        known.setdefault(_bare(inside), path)
        if counts[Path(path).stem] == 1:  # a name alone may leave out the folder where only one image has it
            known.setdefault(Path(path).stem, path)

    def meant(line: str) -> str:
        name = line.replace("\\", "/").removeprefix("./")
        parts = name.split()
        if len(parts) == 2 and all(part.lower().endswith(IMAGE_EXTENSIONS) for part in parts):
            name = parts[0]  # CamVid's lists have an image and its mask a line
        name = f"/{name}".rpartition(f"/{images.name}/")[2].removeprefix("/")
        for form in (name, _bare(name)):
            if form in known:
                return known[form]
        return str(images / (name if name.lower().endswith(IMAGE_EXTENSIONS) else f"{name}.jpg"))

    return meant


def _bare(name: str) -> str:
    """Without the extension of an image; folders stay, and so do other points."""
    return os.path.splitext(name)[0] if name.lower().endswith(IMAGE_EXTENSIONS) else name  # noqa: PTH122
