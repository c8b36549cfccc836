"""Objects cut out of their images into class folders."""

from dataclasses import replace

import numpy as np
import pytest

from detseg.data.annotations import Category
from detseg.data.crops import CropsReport, crop_window, crops_of, folder_names
from detseg.data.images import read_image
from tests.cases import case
from tests.data.annotation_samples import make, write_picture


@pytest.fixture
def annotations(tmp_path):
    """Two images of the same name; objects: three fine ones, a crowd, a thin one, one over the border."""
    paths = [write_picture(tmp_path / place / "a.png", 64, 48, seed) for seed, place in enumerate("xy")]
    boxes = [[8, 8, 40, 40], [0, 0, 30, 30], [5, 5, 35, 9], [40, 20, 90, 48], [16, 16, 36, 46]]
    return make(
        boxes,
        [2, 0, 0, 1, 2],
        [0, 0, 0, 1, 1],
        sizes=((64, 48), (64, 48)),
        paths=[str(path) for path in paths],
        iscrowd=np.array([False, True, False, False, False]),
    )


def test_crops_are_the_pixels_of_their_boxes(annotations, tmp_path):
    report = crops_of(annotations, tmp_path / "out", margin=0)
    assert report == CropsReport(written=3, small=1, crowds=1)
    found = {path.relative_to(tmp_path / "out").as_posix(): read_image(path) for path in tmp_path.glob("out/*/*.jpg")}
    assert found.keys() == {"water lily/a_1_0.jpg", "daisy/a_2_0.jpg", "water lily/a_2_1.jpg"}
    first, second = (read_image(path) for path in annotations.paths)
    wanted = {
        "water lily/a_1_0.jpg": first[8:40, 8:40],
        "daisy/a_2_0.jpg": second[20:48, 40:64],
        "water lily/a_2_1.jpg": second[16:46, 16:36],
    }
    for name, pixels in wanted.items():
        assert found[name].shape == pixels.shape
        assert np.abs(found[name].astype(int) - pixels).mean() < 12, "but for JPEG; other places differ by 80"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"rose", "daisy", "water lily"}


def test_with_a_margin(annotations, tmp_path):
    crops_of(annotations, tmp_path / "out", margin=0.25)
    assert read_image(tmp_path / "out/water lily/a_1_0.jpg").shape == (48, 48, 3)
    assert read_image(tmp_path / "out/water lily/a_2_1.jpg").shape == (48 - 8, 30, 3)


def test_windows():
    for box, margin, wanted in [
        ((10, 10, 30, 20), 0, (10, 10, 30, 20)),
        ((10, 10, 30, 20), 0.1, (8, 9, 32, 21)),
        ((10.4, 10.6, 30.1, 20.9), 0, (10, 10, 31, 21)),
        ((10, 10, 30, 20), 5, (0, 0, 100, 50)),
        ((-5, -5, 10, 10), 0, (0, 0, 10, 10)),
        ((0, 0, 100, 50), 0.5, (0, 0, 100, 50)),
        ((95, 0, 110, 20), 0, (95, 0, 100, 20)),
        ((97, 0, 120, 20), 0, None),
        ((10, 10, 30, 14.9), 1, None),
        ((200, 200, 300, 300), 1, None),
        ((30, 30, 10, 10), 0, None),
    ]:
        with case(box, margin, wanted):
            assert crop_window(np.array(box, np.float64), (100, 50), margin, 5) == wanted


def test_images_are_read_once_and_not_for_nothing(annotations, tmp_path, monkeypatch):
    read = []

    def reader(path):
        read.append(path)
        return read_image(path)

    monkeypatch.setattr("detseg.data.crops.read_image", reader)
    crops_of(annotations, tmp_path / "out")
    assert sorted(read) == sorted(annotations.paths.tolist())
    read.clear()
    crops_of(replace(annotations, iscrowd=np.ones(5, bool)), tmp_path / "none")
    assert read == []


def test_progress_sees_every_image(annotations, tmp_path):
    seen = []

    def track(items, total):
        for item in items:
            seen.append((item, total))
            yield item

    assert crops_of(annotations, tmp_path / "out", track=track).written == 3
    assert seen == [(0, 2), (1, 2)]


def test_class_names_become_names_of_folders(annotations):
    named = replace(annotations, categories=tuple(Category(i, n) for i, n in enumerate(("a/b: c?", ".hidden", ""))))
    assert folder_names(named) == ["a_b_ c_", "hidden", "_"]
    same = replace(annotations, categories=tuple(Category(i, n) for i, n in enumerate(("a/b", "A:b", "c"))))
    with pytest.raises(ValueError, match=r"sample\.json: the classes 'a/b' and 'A:b' would share a folder"):
        folder_names(same)


def test_wrong_input(annotations, tmp_path):
    for options in ({"margin": -0.1}, {"min_side": 0}):
        with pytest.raises(ValueError, match="margin must lie in"):
            crops_of(annotations, tmp_path / "out", **options)
    boxes = annotations.boxes.copy()
    boxes[3] = np.nan
    with pytest.raises(ValueError, match=r"y/a\.png: object 4 has no class or no finite box"):
        crops_of(replace(annotations, boxes=boxes), tmp_path / "out")
    labels = annotations.labels.copy()
    labels[0] = -1
    with pytest.raises(ValueError, match=r"x/a\.png: object 1 has no class"):
        crops_of(replace(annotations, labels=labels), tmp_path / "out")
