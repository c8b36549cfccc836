"""Doubtful boxes, classes, images and masks: each kind found where it is planted, and nothing in sound sets."""

import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest

from detseg.data.annotations import Annotations, Category
from detseg.data.checks.box_doubts import box_doubts
from detseg.data.checks.class_doubts import class_doubts
from detseg.data.checks.doubts import robust_z
from detseg.data.checks.find_doubts import KINDS, find_doubts
from detseg.data.formats import read_dataset, read_labels, read_masks
from detseg.flowers.dataset import write_flowers


def annotated(boxes, labels, *, images=None, size=(400, 300), names=("rose", "tulip"), crowd=()):
    """A set with these boxes, ten to an image unless `images` has the image of each."""
    count = len(boxes)
    images = np.arange(count) // 10 if images is None else np.asarray(images)
    total = int(images.max(initial=-1)) + 1
    return Annotations(
        categories=tuple(Category(k, name) for k, name in enumerate(names)),
        image_ids=np.arange(total),
        paths=np.array([f"{k}.jpg" for k in range(total)], np.str_),
        sizes=np.full((total, 2), size, np.int32),
        image_index=images.astype(np.int32),
        boxes=np.asarray(boxes, np.float64).reshape(-1, 4),
        labels=np.asarray(labels, np.int32),
        iscrowd=np.isin(np.arange(count), crowd),
        ids=np.arange(count) + 100,
        areas=np.ones(count),
    )


def usual(count, side=40.0, seed=0):
    """Boxes of about one size and shape that do not coincide, away from the border."""
    rng = np.random.default_rng(seed)
    sides = side * rng.uniform(0.8, 1.25, (count, 2))
    corners = rng.uniform(5, 200, (count, 2))
    return np.concatenate([corners, corners + sides], 1)


def told(doubts):
    return [(doubt.kind, doubt.object) for doubt in doubts]


def test_usual_boxes_raise_no_doubts():
    assert box_doubts("train", annotated(usual(200), np.zeros(200))) == []
    assert box_doubts("train", annotated([], [])) == []


def test_boxes_of_unusual_size_or_shape_are_found_by_class():
    boxes = usual(120)
    boxes[50] = (10, 10, 16, 16)  # 7 times smaller, and not tiny
    boxes[51] = (10, 10, 110, 27)  # 6 : 1
    boxes[52] = (0, 10, 100, 27)  # the same, cut off by the border
    found = box_doubts("train", annotated(boxes, np.arange(120) >= 100))
    assert told(found) == [("size", 50), ("aspect", 51)]
    assert found[0].what.startswith("rose of 6 x 6 pixels, ")
    assert "times smaller than usual" in found[0].what
    assert "times wider for its height than usual" in found[1].what
    assert min(doubt.score for doubt in found) >= 5


def test_few_examples_do_not_tell_what_is_usual():
    boxes = usual(25)
    boxes[3] = (10, 10, 16, 16)
    assert box_doubts("train", annotated(boxes, np.zeros(25))) == []


def test_coinciding_boxes_name_both_classes_and_the_overlap():
    boxes = [(10, 10, 110, 110), (10, 10, 110, 112), (10, 10, 110, 110), (200, 10, 240, 50), (200, 10, 240, 60)]
    found = box_doubts("val", annotated(boxes, [0, 1, 0, 0, 0]))
    # 0 and 2 are equal boxes of one class: a problem, not a doubt. The last two have an IoU of 0.8.
    assert told(found) == [("coinciding", 1), ("coinciding", 2)]
    assert found[0].what == "tulip, and rose with nearly the same box (object 100, IoU 0.98)"
    assert found[0].score == pytest.approx(100 / 102)
    assert found[0].boxes == ((10, 10, 110, 110),)
    assert (found[0].split, found[0].image) == ("val", 0)
    assert box_doubts("val", annotated(boxes[:2], [0, 0], images=[0, 1])) == []


def test_of_many_boxes_in_one_place_each_has_one_doubt():
    boxes = [(10, 10, 110, 110 + 0.001 * i) for i in range(700)]
    found = box_doubts("val", annotated(boxes, [0] * 700, images=[0] * 700))
    assert [doubt.kind for doubt in found if doubt.kind == "coinciding"] == ["coinciding"] * 699
    assert len({doubt.object for doubt in found if doubt.kind == "coinciding"}) == 699


def test_tiny_boxes_and_boxes_over_the_whole_image_are_doubtful_where_they_are_rare():
    boxes = usual(60)
    boxes[7], boxes[8] = (50, 50, 53, 55), (0, 0, 400, 298)
    labels = np.arange(60) // 20  # too few of each class to tell what is usual
    found = box_doubts("train", annotated(boxes, labels, names="abc"))
    assert told(found) == [("tiny", 7), ("whole-image", 8)]
    assert found[0].what == "a of 3 x 5 pixels"
    assert (
        box_doubts("train", annotated(np.full((60, 4), (0, 0, 400, 300)), labels, images=range(60), names="abc")) == []
    )
    assert box_doubts("train", annotated(usual(60, side=2.5), labels, names="abc")) == []


def test_what_is_a_problem_or_a_crowd_is_not_doubted():
    boxes = usual(40)
    boxes[0], boxes[1], boxes[2] = (np.nan, 0, 5, 5), (50, 50, 40, 60), (10, 10, 12, 12)
    boxes[4] = boxes[3] + 0.1
    labels = np.zeros(40)
    labels[4] = -1
    assert box_doubts("train", annotated(boxes, labels, crowd=[2])) == []


def test_robust_deviations_do_not_depend_on_the_outlier():
    values = np.append(np.random.default_rng(0).normal(3, 2, 9999), 1e9)
    assert np.quantile(robust_z(values, 0.1), 0.6827) == pytest.approx(1, abs=0.05)
    assert robust_z(np.array([1.0, 1.0, 1.5]), 0.25).tolist() == [0, 0, 2]


# ------------------------------------------------------------------ classes


def kinds_of(counts, noun="object"):
    return [(doubt.kind, doubt.what) for doubt in class_doubts(counts, noun)]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Rose", "rose", True),
        ("rose ", "rose", True),
        ("water_lily", "Water-Lily", True),
        ("rose", "roses", True),
        ("bench", "benches", True),
        ("sunflower", "sunflowr", True),  # 50 and 1
        ("dandelion", "dandeloin", True),
        ("class 1", "class 2", False),
        ("type10", "type1", False),
        ("bear", "pear", False),
        ("rose", "tulip", False),
        ("glass", "glas", False),  # no plural, and short
        ("Ｒｏｓｅ", "rose", True),  # full width
    ],
)
def test_names_that_may_mean_the_same(one, other, alike):
    found = [what for kind, what in kinds_of({"train": {one: 50, other: 1}}) if kind == "similar-names"]
    assert found == ([f"{one!r} (50 times) and {other!r} (1 times)"] if alike else [])


def test_long_names_take_no_memory_by_the_square_of_their_length():
    name = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))  # no letter twice
    tracemalloc.start()
    kinds_of({"train": {name: 50, "rose": 20}})
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


def test_two_common_names_one_letter_apart_are_two_words():
    assert kinds_of({"train": {"marten": 50, "martin": 40}}) == []


def test_classes_that_are_rare_absent_or_out_of_proportion():
    counts = {"train": {"a": 2000, "b": 9, "c": 20}, "val": {"a": 10, "c": 0, "d": 3}}
    assert kinds_of(counts) == [
        ("absent", "d: no object in train, but 3 in val: cannot be learnt"),
        ("absent", "b: no object in val, but 9 in train: its accuracy cannot be measured"),
        ("absent", "c: no object in val, but 20 in train: its accuracy cannot be measured"),
        ("few-examples", "b: only 9 objects"),
        ("imbalance", "2000 objects of a, 9 of b: 222 times as many"),
    ]
    assert kinds_of({"": {"a": 10, "b": 999}}) == []
    assert kinds_of({"": {"a": 1}}, "image") == [("few-examples", "a: only 1 image")]


# ------------------------------------------------------------------ images and masks


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """A sound set."""
    return write_flowers(tmp_path_factory.mktemp("flowers") / "f", train=40, val=20, size=(160, 160))


@pytest.mark.slow
def test_a_sound_set_raises_no_doubts_about_images_and_boxes(flowers):
    kinds = {doubt.kind for doubt in find_doubts(read_dataset(flowers))}
    assert kinds <= {"few-examples", "absent"}  # it is small


def test_copies_across_and_within_splits_are_found(flowers, tmp_path):
    splits = read_dataset(flowers)
    image = cv2.imread(str(splits["train"].paths[3]))
    copies = [str(tmp_path / name) for name in ("leak.jpg", "second.png")]
    cv2.imwrite(copies[0], image, [cv2.IMWRITE_JPEG_QUALITY, 40])
    cv2.imwrite(copies[1], cv2.resize(image, (110, 110), interpolation=cv2.INTER_AREA))
    val = splits["val"]
    val = replace(val, paths=np.array([*val.paths[:-2], *copies], np.str_))
    found = [d for d in find_doubts(splits | {"val": val}) if d.kind in ("leak", "near-duplicate")]
    assert [(d.kind, d.split, d.image, d.other) for d in found] == [
        ("leak", "val", 18, ("train", 3)),
        ("near-duplicate", "val", 19, ("val", 18)),
    ]
    assert found[0].what == f"the scene of {splits['train'].paths[3]} of train"


def test_the_same_scene_with_other_objects_is_told(flowers):
    train = read_dataset(flowers)["train"].subset([0, 1, 2, 0])
    rows = train.objects(3)
    kept = np.flatnonzero(np.arange(len(train.ids)) != rows.start)
    other = replace(train, **train.take_objects(kept))
    assert [d.kind for d in find_doubts({"train": train}) if d.image == 3] == ["near-duplicate"]
    found = [d for d in find_doubts({"train": other}) if d.image == 3 and d.kind not in ("near-duplicate", "empty")]
    assert [(d.kind, d.other) for d in found] == [("labelled-differently", ("train", 0))]
    assert ", but " in found[0].what


def test_images_unlike_the_rest_and_empty_ones(flowers, tmp_path):
    train = read_dataset(flowers)["train"]
    grey, black = str(tmp_path / "grey.png"), str(tmp_path / "black.png")
    cv2.imwrite(grey, cv2.imread(str(train.paths[5]), cv2.IMREAD_GRAYSCALE))
    cv2.imwrite(black, np.zeros((160, 160, 3), np.uint8))
    paths, sizes = train.paths.astype(object), train.sizes.copy()
    paths[5], paths[6], sizes[7] = grey, black, (2000, 160)
    data = replace(train, paths=paths.astype(np.str_), sizes=sizes)
    data = replace(data, **data.take_objects(np.flatnonzero(data.image_index != 8)))
    found = {(d.kind, d.image): d.what for d in find_doubts({"": data}) if d.kind in ("unlike", "empty")}
    assert found.pop(("empty", 8)) == "no object"
    assert found.pop(("unlike", 5)) == "grey, where the others are coloured"
    assert found.pop(("unlike", 6)).endswith("shows nothing: all of one brightness")
    assert found.pop(("unlike", 7)) == "2000 x 160 pixels, an unusual size; 2000 x 160 pixels, an unusual shape"
    assert found == {}


def test_of_labelled_images_copies_with_another_class_are_told(crops):
    data = read_labels(crops, "train")
    twice = data.subset([*range(len(data)), 0])
    labels = twice.labels.copy()
    labels[-1] = 1 - labels[0]
    found = [d for d in find_doubts({"train": replace(twice, labels=labels)}) if d.image == len(data)]
    assert [d.kind for d in found] == ["near-duplicate", "labelled-differently"]
    assert found[1].what.startswith(f"{data.names[1 - data.labels[0]]}, but {data.names[data.labels[0]]} in the same")


def write_masks(folder, masks):
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k, mask in enumerate(masks):
        blocks = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (64, 64), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"images/{k:02}.png"), blocks)
        cv2.imwrite(str(folder / f"masks/{k:02}.png"), mask)
    (folder / "classes.txt").write_text("background\nflower\nbee\n")
    return read_masks(folder)


def test_masks_with_specks_with_one_class_and_classes_with_few_pixels(tmp_path):
    masks = []
    for _ in range(20):
        mask = np.zeros((64, 64), np.uint8)
        mask[10:40, 10:40] = 1
        mask[20:22, 20:22] = 0  # a hole is none
        masks.append(mask)
    masks[3][50:52, 50:53] = 1  # six pixels
    masks[4][60, 60] = 1
    masks[4][62, 5] = 1
    masks[5][:] = 0
    masks[6][10:40, 25] = 255  # the band of ignored pixels hides no speck
    masks[6][38:40, 24] = 255
    masks[7][50:52, 30:32] = 2  # the only one of its class
    found = find_doubts({"": write_masks(tmp_path / "set", masks)})
    told = {(d.kind, d.image): d for d in found}
    assert told["specks", 3].what == "1 speck"
    assert told["specks", 3].boxes == ((50, 50, 53, 52),)
    assert told["specks", 4].what == "2 specks"
    assert told["empty-mask", 5].what == "every pixel is background"
    assert [d.what for d in found if d.kind == "few-pixels"] == ["bee: 0.005% of the pixels"]
    assert sum(d.kind == "specks" for d in found) == 2


def test_specks_of_most_masks_are_told_as_one(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:40, 10:40] = mask[50, 50] = 1
    found = [d for d in find_doubts({"": write_masks(tmp_path / "set", [mask] * 5)}) if d.kind == "specks"]
    assert [d.what for d in found] == ["5 of 5 masks have 5 specks"]


def test_every_kind_has_a_title_and_a_rule():
    assert all(kind.title and kind.rule for kind in KINDS.values())
