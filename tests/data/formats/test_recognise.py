"""Which format a path holds, and the law that every pair of formats round-trips."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg.data.annotations import AnnotationError
from detseg.data.formats import read_annotations, read_dataset, write_coco, write_voc, write_yolo
from detseg.data.formats.locate import list_images
from tests.data.annotation_samples import by_image, coco_content, make, write_json, write_picture


def test_coco_folders(tmp_path):
    for case, (train, val) in enumerate(
        (
            ("train.json", "val.json"),
            ("instances_train.json", "instances_val.json"),
            ("instances_train2017.json", "instances_val2017.json"),
            ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
            ("annotations/train.json", "annotations/valid.json"),
            ("train_boxes.json", "val_boxes.json"),
            ("annotations/instances_Train.json", "annotations/instances_Validation.json"),
            ("train/_annotations.coco.json", "valid/_annotations.coco.json"),
        )
    ):
        folder = tmp_path / str(case)
        write_json(folder / train, coco_content())
        write_json(folder / val, coco_content() | {"annotations": []})
        data = read_dataset(folder)
        assert list(data) == ["train", "val"]
        assert (len(data["train"].ids), len(data["val"].ids)) == (4, 0), (train, val)
        assert len(read_annotations(folder, "train").ids) == 4


def test_json_of_other_programs_does_not_hide_a_data_set(tmp_path):
    """A run's train_args.json, and files that macOS and other tools leave, beside YOLO and VOC."""
    sample = make([[1, 2, 30, 40]], paths=[str(write_picture(tmp_path / "a.png"))])
    for write in (write_yolo, write_voc):
        folder = tmp_path / write.__name__
        for split in ("train", "val"):
            write(sample, folder, split)
        for name in ("train_args.json", "test_stats.json"):
            write_json(folder / name, {"epochs": 3})
        (folder / "environment.yml").write_text("name: !!python/tuple [a, b]\n---\nx: 1\n")
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations/._a.xml").write_bytes(b"\0\5\x16\7")
        assert [len(part.ids) for part in read_dataset(folder).values()] == [1, 1]


def test_plain_names_go_before_longer_ones(tmp_path):
    for name in ("train.json", "val.json", "instances_train.json", "train_results.json"):
        write_json(tmp_path / name, coco_content())
    assert read_dataset(tmp_path)["train"].source == str(tmp_path / "train.json")


def test_a_folder_with_one_json(tmp_path):
    write_json(tmp_path / "flowers.json", coco_content())
    assert len(read_annotations(tmp_path).ids) == 4
    with pytest.raises(AnnotationError, match=r"found: annotations without splits\. .* --val-share 0\.2"):
        read_dataset(tmp_path)


def test_ambiguous_files_are_named(tmp_path):
    for year in (2014, 2017):
        write_json(tmp_path / f"instances_train{year}.json", coco_content())
    with pytest.raises(AnnotationError, match=r"instances_train2014\.json, instances_train2017\.json"):
        read_annotations(tmp_path)


def test_a_missing_split_and_its_remedy(tmp_path):
    write_json(tmp_path / "train.json", coco_content())
    with pytest.raises(AnnotationError, match=r"no split 'val'; found: train\. Give a folder"):
        read_dataset(tmp_path)


def test_nothing_recognised_lists_what_was_looked_for(tmp_path):
    (tmp_path / "notes.md").write_text("hello")
    for path in (tmp_path, tmp_path / "notes.md"):
        with pytest.raises(AnnotationError, match=r"(?s)Looked for:.*COCO.*VOC.*YOLO"):
            read_annotations(path)
    with pytest.raises(AnnotationError, match="does not exist"):
        read_annotations(tmp_path / "nowhere")


def test_copies_of_images_are_not_found(tmp_path):
    """What Jupyter keeps, a hidden file of macOS, and a link to a folder above."""
    for name in ("a.png", "deeper/b.JPG", ".ipynb_checkpoints/a-checkpoint.png", "._a.png"):
        write_picture(tmp_path / "set" / name.lower())
    (tmp_path / "set/deeper/again").symlink_to(tmp_path / "set")
    (tmp_path / "set/linked").symlink_to(write_picture(tmp_path / "elsewhere/c.png").parent)
    found = [path.removeprefix(f"{tmp_path}/set/") for path in list_images(tmp_path / "set")]
    assert found == ["a.png", "deeper/b.jpg", "linked/c.png"]


WRITERS = {
    "coco": lambda a, folder: write_coco(a, folder / "train.json"),
    "voc": lambda a, folder: write_voc(a, folder, "train"),
    "yolo": lambda a, folder: write_yolo(a, folder, "train"),
}
corner = st.floats(0, 40, allow_subnormal=False)
side = st.floats(0.01, 20)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [str(write_picture(folder / f"{name}.png", 97, 61, seed)) for seed, name in enumerate("abc")]


@pytest.mark.parametrize("first", list(WRITERS))
@settings(max_examples=16, deadline=None)
@given(
    second=st.sampled_from(list(WRITERS)),
    objects=st.lists(
        st.tuples(st.integers(0, 2), corner, corner, side, side, st.integers(0, 2), st.booleans()), max_size=6
    ),
)
def test_every_pair_of_formats_round_trips(first, second, images, objects):
    objects = sorted(objects, key=lambda item: item[0])
    crowd = [item[6] and "yolo" not in (first, second) for item in objects]
    original = make(
        [[x, y, x + w, y + h] for _, x, y, w, h, _, _ in objects],
        [item[5] for item in objects],
        [item[0] for item in objects],
        [(97, 61)] * 3,
        images,
        iscrowd=np.array(crowd, dtype=bool),
    )
    with tempfile.TemporaryDirectory() as folder:
        steps = [Path(folder) / f"{number}" for number in range(3)]
        annotations = original
        for step, name in zip(steps, (first, second, first), strict=True):
            WRITERS[name](annotations, step)
            annotations = read_annotations(step, "train")
            assert annotations.names == original.names
            assert by_image(annotations).keys() == by_image(original).keys()
            for image in range(3):
                ours, theirs = annotations.objects(image), original.objects(image)
                np.testing.assert_allclose(annotations.boxes[ours], original.boxes[theirs], atol=1e-6)
                np.testing.assert_array_equal(annotations.labels[ours], original.labels[theirs])
                np.testing.assert_array_equal(annotations.iscrowd[ours], original.iscrowd[theirs])
