"""Annotated sets of one oddity each, as people have them: what is read of each, or what is said of it.

The sets lie beside the project, where a machine has them. By hand, with what is read of every set and every message:
`python -m tests.data.test_cases FOLDER`.
"""

import logging
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from detseg.data import repair, validate
from detseg.data.annotations import AnnotationError
from detseg.data.checks.learnable import require_learnable
from detseg.data.formats import find_mask_sources, find_sources
from detseg.data.images import read_image
from tests.conftest import SHARED

CASES = SHARED.parent / "cases" / "data"
TWO = {"train": (4, 8, 0), "val": (2, 4, 0)}  # images, objects, ignored objects of each split
ONE = {"": (6, 12, 0)}

# Of boxes: what is read, and what is said, as a pattern in the warnings and problems ("" for nothing at all).
READ = {
    "coco_case_differs": (TWO, ""),
    "coco_image_wrong_picture": (TWO, "cam2"),
    "coco_nfd": (TWO, ""),
    "coco_only_other_jsons": (TWO, ""),
    "coco_str_image_ids": (TWO, ""),
    "createml_json": (TWO, ""),
    "csv_kaggle": (TWO, ""),
    "csv_tf": (TWO, ""),
    "labelme_json": (ONE, ""),
    "labelstudio_json": ({"": (6, 6, 0)}, ""),
    "pic_tiff_4bands_nir": (TWO, ""),
    "raccoon_like_yaml": (ONE, ""),
    "seg_coco_rle_rowmajor": (TWO, "mask"),
    "via_json": (ONE, ""),
    "voc_cvat_xml": (ONE, ""),
    "voc_difficult_text_some": (TWO, ""),
    "voc_lower_annotations": (ONE, ""),
    "voc_mac_hidden": (TWO, ""),
    "voc_polygon_only": (TWO, ""),
    "voc_split_folders": (TWO, ""),
    "yolo_checkpoints": (TWO, ""),
    "yolo_half_heic": ({"train": (2, 4, 0), "val": (1, 2, 0)}, r"\.heic"),
    "yolo_half_jfif": (TWO, ""),
    "yolo_img_folder": (TWO, ""),
    "yolo_jpegimages": (TWO, ""),
    "yolo_labels_percent_some": (TWO, ""),
    "yolo_labelstudio_noimages": (ONE, ""),
    "yolo_names_yes_no": (TWO, ""),
    "yolo_orphan_labels": ({"train": (2, 4, 0), "val": (2, 4, 0)}, "2 label files"),
    "yolo_two_yamls": (TWO, ""),
    "yolo_windows_yaml": (TWO, ""),
}
# What must stop: a pattern in the message.
REFUSED = {
    "coco_cvat_masks_all_crowd": "all 8 .*(crowd|ignored)",
    "coco_filename_key": r"images\[0\].* has no file_name.*filename",
    "coco_latin1_category": r"train\.json.*save it as UTF-8",
    "coco_merged_same_ids": "image id 1 is given",
    "coco_normalised": "shares of the image",
    "coco_xyxy": "x1, y1, x2, y2",
    "labelbox_ndjson": r"export\.ndjson",
    "supervisely_json": "no objects to learn",
    "yolo_class_from_1": "counted from 1",
    "mask_0_255_with_classes": "255 flower",
    "mask_antialiased": "threshold",
}
# Of masks: the classes, and how many pixels of each (and of "ignore", 255) there are in all splits.
MASKS = {
    "mask_folder_singular": ("background", "rose", "daisy"),
    "mask_folders_labels": ("background", "rose", "daisy"),
    "mask_labelmap_cvat": ("background", "rose", "daisy"),
    "mask_mixed_1bit_255": ("background", "foreground"),
    "mask_palette_bw": ("background", "foreground"),
    "mask_rgba_alpha": ("background", "foreground"),
    "mask_suffix": ("background", "foreground"),
}
FOREGROUND = 11808  # pixels of the objects of six images


def folder_of(name):
    if not (CASES / name).is_dir():
        pytest.skip(f"the annotated sets of one oddity each are not on this machine ({name} not found)")
    return CASES / name


def everything(folder, find=find_sources):
    """The splits, each checked with its training split, and all problems."""
    splits = {split: read() for split, read in find(folder).items()}
    first = next(iter(splits.values()))
    return splits, [p for data in splits.values() for p in validate(data, other=None if data is first else first)]


def counts(data):
    return len(data), int((~data.iscrowd).sum()), int(data.iscrowd.sum())


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name, caplog):
    expected, said = READ[name]
    with caplog.at_level(logging.WARNING):
        splits, problems = everything(folder_of(name))
    assert {split: counts(data) for split, data in splits.items()} == expected
    assert [str(p) for p in problems if p.severity == "error"] == []
    text = " ".join([caplog.text, *map(str, problems)])
    assert re.search(said, text) if said else not problems, text
    assert all(Path(path).is_file() for data in splits.values() for path in data.paths.tolist())
    wanted = {"no", "yes"} if name == "yolo_names_yes_no" else {"rose", "daisy"}
    assert set(next(iter(splits.values())).names) | {"daisy"} == wanted | {"daisy"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    folder = folder_of(name)
    with pytest.raises(AnnotationError) as error:
        splits, problems = everything(folder, find_mask_sources if name.startswith("mask") else find_sources)
        errors = [str(p) for p in problems if p.severity == "error"]
        if errors:
            raise AnnotationError(" ".join(errors))
        require_learnable(next(iter(splits.values())))
    assert re.search(REFUSED[name], " ".join(str(error.value).split())), str(error.value)


@pytest.mark.parametrize("name", MASKS)
def test_what_masks_say(name):
    splits, problems = everything(folder_of(name), find_mask_sources)
    assert [str(p) for p in problems if p.severity == "error"] == []
    pixels = np.zeros(256, np.int64)
    for data in splits.values():
        assert data.names == MASKS[name]
        pixels += sum(np.bincount(data.mask(i).ravel(), minlength=256) for i in range(len(data)))
    assert pixels[255] == 0 and pixels[1 : len(MASKS[name])].sum() == FOREGROUND
    assert all(pixels[: len(MASKS[name])] > 0)


def test_instance_numbers_are_objects(tmp_path):
    folder = folder_of("mask_instance_numbers")
    with pytest.raises(AnnotationError, match="the number of an object, write their one class"):
        find_sources(folder)
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set/classes.txt").write_text("flower\n")
    splits, problems = everything(tmp_path / "set")
    assert {split: counts(data) for split, data in splits.items()} == TWO
    assert [p for p in problems if p.severity == "error"] == []
    assert all(data.drawn.all() for data in splits.values())


def test_infrared_is_no_transparency():
    splits, _ = everything(folder_of("pic_tiff_4bands_nir"))
    data = splits["train"]
    x1, y1, x2, y2 = data.boxes[0].astype(int)
    middle = read_image(str(data.paths[0]))[(y1 + y2) // 2, (x1 + x2) // 2]
    assert middle[0] > 200 and middle[1:].max() < 60, "a red flower, not one that is washed out"


def test_repair_of_a_sliver_at_the_border():
    splits, _ = everything(folder_of("coco_sliver_at_border"))
    for data in splits.values():
        repaired, done = repair(data, validate(data))
        assert len(repaired.ids) == len(data.ids) - 1 and len(done) == 2
        assert [p for p in validate(repaired) if p.severity == "error"] == []


def test_every_set_is_looked_at():
    if not CASES.is_dir():
        pytest.skip("the annotated sets of one oddity each are not on this machine")
    own = {"mask_instance_numbers", "coco_sliver_at_border"}
    assert {folder.name for folder in CASES.iterdir()} == {*READ, *REFUSED, *MASKS, *own}


def main(folder):
    """Print what is read of every set in a folder, and what is said."""
    logging.basicConfig(level=logging.WARNING, format="    warning: %(message)s", stream=sys.stdout)
    for place in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
        print(place.name)
        for kind, find in (("boxes", find_sources), ("masks", find_mask_sources)):
            try:
                splits, problems = everything(place, find)
            except AnnotationError as error:
                print(f"    {kind}: {error}")
                continue
            for split, data in splits.items():
                shown = counts(data) if kind == "boxes" else (len(data), data.names)
                print(f"    {kind} {split or 'without splits'}: {shown}")
            for problem in problems[:5]:
                print(f"    {problem.severity}: {problem}")


if __name__ == "__main__":
    main(sys.argv[1])
