"""Images that belong together: equal ones, versions of one, by name, by table, by look."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from detseg.data.annotations import AnnotationError
from detseg.data.groups import groups_of, image_keys, prefix_of
from tests.data.annotation_samples import make, write_picture


def pictures(folder, names):
    paths = [str(write_picture(folder / name, seed=seed)) for seed, name in enumerate(names)]
    return make(sizes=[(64, 48)] * len(paths), paths=paths)


def test_keys_are_paths_within_the_set(tmp_path):
    data = pictures(tmp_path, ["train/a.png", "val/a.png"])
    assert image_keys(data) == ["train/a.png", "val/a.png"]
    assert image_keys(pictures(tmp_path, ["train/a.png", "train/b.png"])) == ["a.png", "b.png"]
    assert image_keys(make(sizes=np.zeros((0, 2)))) == []


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("scene1_001.jpg", "scene1"),
        ("scene1_002.JPG", "scene1"),
        ("IMG_20230514_101501.jpg", "IMG_20230514"),
        ("garden (12).png", "garden"),
        ("film/frame-0001.jpg", "film/frame"),
        ("film/0001.jpg", "film/"),
        ("film_mp4-12_jpg.rf.0f1ed2.jpg", "film_mp4"),
        ("daisy.jpg", "daisy"),
        ("v1.2_west.jpg", "v1.2_west"),
        ("日本_3.jpg", "日本"),
    ],
)
def test_the_prefix_of_a_name(key, prefix):
    assert prefix_of(key) == prefix


def test_equal_images_and_versions_of_one_are_always_together(tmp_path):
    names = ["a_jpg.rf.11aa.jpg", "a_jpg.rf.22bb.jpg", "b_jpg.rf.33cc.jpg", "b.png", "c.png", "c.jpg"]
    data = pictures(tmp_path, names)
    (tmp_path / "c.png").write_bytes((tmp_path / "b_jpg.rf.33cc.jpg").read_bytes())
    assert groups_of(data).tolist() == [0, 0, 2, 3, 2, 5]


def test_by_prefix_and_transitively(tmp_path):
    data = pictures(tmp_path, ["a_1.png", "b_1.png", "a_2.png", "c.png", "b_2.png"])
    assert groups_of(data, "prefix").tolist() == [0, 1, 0, 3, 1]
    (tmp_path / "a_1.png").write_bytes((tmp_path / "b_1.png").read_bytes())
    assert groups_of(data, "prefix").tolist() == [0, 0, 0, 3, 0]


def test_by_a_column_of_a_table(tmp_path):
    data = pictures(tmp_path / "set", ["x/a.png", "x/b.png", "y/a.png"])
    table = tmp_path / "photos.csv"
    table.write_text("filename;garden\nx/a.png;north\nb;south\ny/a.png;south\nz.png;west\n")
    assert groups_of(data, f"{table}:garden").tolist() == [0, 1, 1]
    table.write_text("filename,garden\nset/x/a.png,north\nset/x/b.png,south\nset/y/a.png,south\n")
    assert groups_of(data, f"{table}:garden").tolist() == [0, 1, 1], "with folders above those of the images"
    with pytest.raises(AnnotationError, match=r"photos.csv: has no column 'plot'; its columns are filename, garden"):
        groups_of(data, f"{table}:plot")
    table.write_text("filename,garden\nx/a.png,north\n")
    with pytest.raises(AnnotationError, match=r"does not list 2 of 3 images, the first is x/b.png"):
        groups_of(data, f"{table}:garden")
    table.write_text("filename,garden\na.png,north\na.png,south\n")
    with pytest.raises(AnnotationError, match=r"line 3: a.png is listed before, with another garden"):
        groups_of(data, f"{table}:garden")
    table.write_text("where,garden\na.png,north\n")
    with pytest.raises(AnnotationError, match="no column of image names"):
        groups_of(data, f"{table}:garden")
    with pytest.raises(AnnotationError, match=r"nowhere\.csv"):
        groups_of(data, f"{tmp_path / 'nowhere.csv'}:garden")
    with pytest.raises(ValueError, match=r"grouped by prefix, near-duplicates, or FILE\.csv:COLUMN"):
        groups_of(data, "garden")


def test_by_look(tmp_path, monkeypatch):
    asked = {}

    def near_duplicate_groups(paths, *, track=None):
        asked.update(paths=paths, track=track)
        return [[0, 2]]

    module = SimpleNamespace(near_duplicate_groups=near_duplicate_groups)
    monkeypatch.setitem(sys.modules, "detseg.data.checks.near_duplicates", module)
    data = pictures(tmp_path, ["a.png", "b.png", "c.png"])
    assert groups_of(data, "near-duplicates", track=iter).tolist() == [0, 1, 0]
    assert asked == {"paths": data.paths.tolist(), "track": iter}
