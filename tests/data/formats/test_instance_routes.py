"""From each kind of files with masks of objects to the masks that a model learns; OpenCV says what is inside."""

import json
import logging

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from detseg.data.annotations import AnnotationError
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_dataset, write_dataset
from detseg.data.index_png import write_index_png
from tests.data.annotation_samples import write_picture
from tests.data.formats.test_voc import one, write_xml
from tests.data.mask_samples import save_mask

SIZE = (64, 48)
OBJECTS = [  # a triangle, what is not convex, and what reaches beyond the border
    [[5.2, 4.3], [24.7, 9.1], [8.8, 22.6]],
    [[30.1, 6.2], [58.4, 6.2], [58.4, 30.7], [44.3, 13.9], [30.1, 30.7]],
    [[40.6, 33.3], [70.2, 38.8], [52.7, 55.1]],
]


def drawn(points, scale=1):
    """(H, W): whether the centre of each pixel lies inside."""
    outline = np.array(points, np.float32) * scale
    width, height = (side * scale for side in SIZE)
    return np.array(
        [[cv2.pointPolygonTest(outline, (x + 0.5, y + 0.5), False) > 0 for x in range(width)] for y in range(height)],
        np.uint8,
    )


MASKS = [drawn(points) for points in OBJECTS]


def box_of(mask):
    return cv2.boundingRect(mask)


def write_coco(folder, segmentations):
    for split in ("train", "val"):
        write_picture(folder / f"images/{split}.png", *SIZE, seed=len(split))
        content = {
            "images": [{"id": 1, "file_name": f"{split}.png", "width": SIZE[0], "height": SIZE[1]}],
            "annotations": [
                {"id": k, "image_id": 1, "category_id": 1, "bbox": box_of(mask), "segmentation": segmentation}
                for k, (mask, segmentation) in enumerate(zip(MASKS, segmentations, strict=True), 1)
            ],
            "categories": [{"id": 1, "name": "rose"}],
        }
        (folder / f"{split}.json").write_text(json.dumps(content))


def coco_polygons(folder):
    write_coco(folder, [[np.ravel(points).tolist()] for points in OBJECTS])


def compressed(mask):
    code = coco.encode(np.asfortranarray(mask))
    return {"size": [SIZE[1], SIZE[0]], "counts": code["counts"].decode()}


def coco_compressed(folder):
    write_coco(folder, [compressed(mask) for mask in MASKS])


def coco_plain(folder):
    def runs(mask):
        column = mask.T.ravel()
        edges = np.flatnonzero(np.diff(column, prepend=0, append=0))
        counts = np.diff([0, *edges, column.size]).tolist()
        return {"size": [SIZE[1], SIZE[0]], "counts": counts}

    write_coco(folder, [runs(mask) for mask in MASKS])


def yolo(folder):
    for split in ("train", "val"):
        write_picture(folder / f"images/{split}/a{split}.png", *SIZE, seed=len(split))
        (folder / f"labels/{split}").mkdir(parents=True)
        rows = (f"0 {' '.join(map(str, (np.array(points) / SIZE).ravel()))}\n" for points in OBJECTS)
        (folder / f"labels/{split}/a{split}.txt").write_text("".join(rows))
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [rose]\n")


def numbers(border=0):
    values = np.zeros(SIZE[::-1], np.uint8)
    for number, mask in enumerate(MASKS, 1):
        around = cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0
        values[around & (values == 0)] = border
        values[mask > 0] = number
    return values


def voc(folder):
    for split in ("train", "val"):
        write_picture(folder / f"JPEGImages/{split}.jpg", *SIZE, seed=len(split))
        write_index_png(folder / f"SegmentationObject/{split}.png", numbers(border=255))
        boxes = [(x + 1, y + 1, x + w, y + h) for x, y, w, h in map(box_of, MASKS)]
        write_xml(folder / f"Annotations/{split}.xml", *(one("rose", *box) for box in boxes))
        (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (folder / f"ImageSets/Main/{split}.txt").write_text(f"{split}\n")


def penn_fudan(folder):
    for split in ("train", "val"):
        write_picture(folder / f"PNGImages/{split}.png", *SIZE, seed=len(split))
        save_mask(folder / f"PedMasks/{split}_mask.png", numbers())
        (folder / f"{split}.txt").write_text(f"{split}\n")
    (folder / "classes.txt").write_text("rose\n")


def labelme(folder):
    for split in ("train", "val"):
        write_picture(folder / f"{split}/{split}0.png", *SIZE, seed=len(split))
        shapes = [{"label": "rose", "points": points, "shape_type": "polygon"} for points in OBJECTS]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{split}0.png", "imageData": None}
        content |= {"imageWidth": SIZE[0], "imageHeight": SIZE[1]}
        (folder / f"{split}/{split}0.json").write_text(json.dumps(content))


POLYGONS = [coco_polygons, yolo, labelme]
PIXELS = [coco_compressed, coco_plain, voc, penn_fudan]


@pytest.mark.parametrize("write", POLYGONS + PIXELS, ids=lambda write: write.__name__)
def test_every_source_gives_the_masks_that_are_in_it(tmp_path, write, caplog):
    write(tmp_path)
    data = read_dataset(tmp_path)
    for split in ("train", "val"):
        assert data[split].drawn.all() and len(data[split].ids) == 3
        for scale in (1, 2):
            sample = DetectionDataset(data[split], SIZE[0] * scale, masks=True)[0]
            assert sample.masks.shape == (3, SIZE[1] * scale, SIZE[0] * scale)
            for mask, own, points, window in zip(sample.masks, MASKS, OBJECTS, sample.windows, strict=True):
                expected = (
                    drawn(points, scale) if write in POLYGONS else np.kron(own, np.ones((scale, scale), np.uint8))
                )
                np.testing.assert_array_equal(mask, expected)
                x, y, width, height = cv2.boundingRect(mask)
                assert (window[:2] <= (x, y)).all() and (window[2:] >= (x + width, y + height)).all()
    assert "no mask" not in caplog.text


@pytest.mark.parametrize("long_side", [13, 40, 64, 150])
def test_drawn_as_pycocotools_draws(tmp_path, long_side):
    """But for some pixels on the border: pycocotools rounds corners to a fifth of a pixel."""
    coco_polygons(tmp_path)
    sample = DetectionDataset(read_dataset(tmp_path)["train"], long_side, masks=True)[0]
    width, height = sample.size
    for mask, points in zip(sample.masks, OBJECTS, strict=True):
        polygon = (np.array(points) * (np.array(sample.size) / SIZE)).ravel().tolist()
        theirs = coco.decode(coco.merge(coco.frPyObjects([polygon], height, width)))
        border = cv2.morphologyEx(np.pad(theirs, 1), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
        assert not (mask != theirs)[~border].any()
        assert (mask != theirs).sum() <= 0.15 * border.sum()


def test_some_objects_with_masks_and_some_without(tmp_path, caplog):
    """These have an empty mask, which is unknown, and it is told once how many they are."""
    segmentations = [[np.ravel(OBJECTS[0]).tolist()], None, None]
    write_coco(tmp_path, segmentations)
    content = json.loads((tmp_path / "train.json").read_text())
    content["annotations"][2]["iscrowd"] = 1
    for entry in content["annotations"][1:]:
        del entry["segmentation"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        data = read_dataset(tmp_path)["train"]
        sample = DetectionDataset(data, SIZE[0], masks=True)[0]
    assert [bool(mask.any()) for mask in sample.masks] == [True, False, False]
    assert caplog.text.count("1 of 2 objects have no mask; they teach their boxes and classes only") == 1
    for entry in content["annotations"]:
        entry.pop("segmentation", None)
    (tmp_path / "train.json").write_text(json.dumps(content))
    message = r"train.json: has boxes but no masks, none of its 2 objects has polygons or run lengths\. Give COCO with"
    with pytest.raises(AnnotationError, match=message):
        DetectionDataset(read_dataset(tmp_path)["train"], SIZE[0], masks=True)


@pytest.mark.parametrize(("to", "kept"), [("labelme", True), ("coco", True), ("yolo", False), ("voc", False)])
def test_what_becomes_of_run_lengths_in_other_formats(tmp_path, caplog, to, kept):
    coco_compressed(tmp_path / "from")
    data = read_dataset(tmp_path / "from")
    for split in ("train", "val"):
        write_dataset(data[split], tmp_path / "to", split, to=to, images="copy")
    found = read_dataset(tmp_path / "to")["train"]
    assert found.drawn.all() if kept else found.segments is None
    assert ("3 objects keep only their boxes" in caplog.text) == (not kept)
    if kept:
        np.testing.assert_array_equal(DetectionDataset(found, SIZE[0], masks=True)[0].masks, MASKS)
