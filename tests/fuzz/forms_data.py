"""Annotation formats, read as training reads them: recognised, checked or repaired, an image of each split taken."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from detseg.data.annotations import Annotations, Category
from detseg.data.checks.find_doubts import find_doubts
from detseg.data.checks.validate import checked
from detseg.data.class_tree import read_tree
from detseg.data.dataset import ClassificationDataset, DetectionDataset, SegmentationDataset
from detseg.data.formats import FORMATS, Format, find_label_sources, find_mask_sources, find_sources
from detseg.data.groups import groups_of
from detseg.data.labels import LabelledImages
from detseg.data.masks import SemanticMasks
from detseg.data.statistics import count
from detseg.sources.files import expand
from tests.fuzz import seeds
from tests.fuzz.harness import Form
from tests.fuzz.seeds import pictures, text

FIND: dict[str, Callable[..., Any]] = {
    "objects": find_sources,
    "masks": find_mask_sources,
    "labels": find_label_sources,
}


def reading(name: str, gives: str = "objects") -> Callable[[Path], None]:
    """Reads a folder of a format. One in eight is shown to all formats, which takes several times as long."""
    format = next(format for format in FORMATS if format.name == name and format.gives == gives)

    def read(folder: Path) -> None:
        size = sum(file.lstat().st_size for file in folder.rglob("*"))
        with only(format if size % 8 else None):
            sources = FIND[gives](folder)
            splits = {split: source() for split, source in sources.items()}
        use(splits, repairing=size % 3 == 0)

    return read


@contextmanager
def only(format: Format | None) -> Iterator[None]:
    """Only one format is known."""
    every = list(FORMATS)
    FORMATS[:] = [format] if format else every
    try:
        yield
    finally:
        FORMATS[:] = every


def use(splits: dict[str, Any], *, repairing: bool) -> None:
    """What training and `doctor` do with splits before the network sees them."""
    if repairing:
        find_doubts(splits)
    for data in splits.values():
        data = checked(data, None, repairing=repairing, print_line=lambda line: None)
        count(data)
        if isinstance(data, Annotations):
            drawn = bool((data.drawn & ~data.iscrowd).any())
            DetectionDataset(data, 16, masks=drawn)[0]
        elif isinstance(data, SemanticMasks):
            SegmentationDataset(data, 16)[0]
        elif isinstance(data, LabelledImages):
            ClassificationDataset(data, 16)[0]


def make_tree(folder: Path) -> list[Path]:
    arrows = text(
        folder / "arrows.txt", "rose -> Rosaceae\ndaisy -> Asteraceae\nRosaceae -> plant\nAsteraceae -> plant\n"
    )
    table = text(folder / "table.csv", "child,parent\nrose,Rosaceae\ndaisy,Asteraceae\n")
    return [text(folder / "tree.txt", "plant\n  Rosaceae\n    rose\n  Asteraceae\n    daisy\n"), arrows, table]


def read_trees(folder: Path) -> None:
    for name in ("tree.txt", "arrows.txt", "table.csv"):
        tree, _ = read_tree(folder / name, [Category(1, "rose"), Category(2, "daisy")])
        assert tree.levels and tree.cut(tree.levels).shape


def make_groups(folder: Path) -> list[Path]:
    seeds.label_table(folder)
    return [text(folder / "groups.txt", "filename,scene\na.png,1\nb.png,1\nimages/c.png,2\n")]


def read_groups(folder: Path) -> None:
    with only(next(format for format in FORMATS if format.name == "tables")):
        data = next(iter(find_label_sources(folder).values()))()
    groups_of(data, f"{folder}/groups.txt:scene")


def make_list(folder: Path) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    return [text(folder / "list.txt", f"a.png\n{folder}/b.png\n# none\n\n")]


def read_list(folder: Path) -> None:
    list(expand([str(folder / "list.txt")]).images)


def _named(name: str, make: Callable[[Path], list[Path]], format: str, gives: str = "objects", **more: Any) -> Form:
    return Form(name, make, reading(format, gives), **more)


FORMS = [
    _named("coco", seeds.coco, "coco"),
    _named("voc", seeds.voc, "voc"),
    _named("voc-masks", seeds.voc_masks, "voc"),
    _named("yolo", seeds.yolo, "yolo"),
    _named("yolo-bare", seeds.yolo_bare, "yolo"),
    _named("yolo-key-points", seeds.yolo_key_points, "yolo"),
    _named("labelme", seeds.labelme, "labelme"),
    _named("cvat", seeds.cvat, "cvat"),
    _named("label-studio", seeds.label_studio, "labelstudio"),
    _named("label-studio-min", seeds.label_studio_min, "labelstudio"),
    _named("via", seeds.via, "via"),
    _named("via-export", partial(seeds.via, project=False), "via"),
    _named("via-3", seeds.via_3, "via"),
    _named("via-csv", seeds.via_csv, "via"),
    _named("createml", seeds.createml, "createml"),
    _named("labelbox", seeds.labelbox, "labelbox"),
    _named("labelbox-old", seeds.labelbox_old, "labelbox"),
    _named("supervisely", seeds.supervisely, "supervisely"),
    _named("datumaro", seeds.datumaro, "datumaro"),
    _named("kitti", seeds.kitti, "kitti"),
    _named("visdrone", seeds.visdrone, "visdrone"),
    _named("open-images", seeds.open_images, "openimages"),
    _named("dlib", seeds.dlib, "dlib"),
    _named("box-table", seeds.box_table, "csv"),
    _named("box-table-headless", seeds.box_table_headless, "csv"),
    _named("box-lists", seeds.box_lists, "csv"),
    _named("instance-masks", seeds.instance_masks, "instance-masks"),
    _named("mask-folders", seeds.mask_folders, "mask-folders", "masks"),
    _named("colour-masks", seeds.colour_masks, "mask-folders", "masks"),
    _named("class-folders", seeds.class_folders, "class-folders", "labels"),
    _named("label-table", seeds.label_table, "tables", "labels"),
    _named("mnist", seeds.mnist, "mnist", "labels", kind="bytes"),
    _named("named-files", seeds.named_files, "named-files", "labels"),
    Form("class-tree", make_tree, read_trees),
    Form("groups", make_groups, read_groups),
    Form("source-list", make_list, read_list),
]
