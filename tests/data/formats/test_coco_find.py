import gzip
import json

import pytest

from detseg.data.annotations import AnnotationError
from detseg.data.formats import find_sources, read_annotations, read_coco, read_dataset
from detseg.metrics.detection.inputs import read_found, read_truth
from tests.cases import case
from tests.data.annotation_samples import by_image, coco_content, write_coco_dataset, write_json, write_picture

CONTENT = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20]}],
    "categories": [{"id": 1, "name": "rose"}],
}


def write_set(folder, names):
    """A COCO file under each name, whose only image lies in images/."""
    write_picture(folder / "images/a.jpg")
    for name in names:
        write_json(folder / name, CONTENT)
    return folder


def test_splits_are_told_by_names(tmp_path):
    for number, (names, expected) in enumerate(
        (
            (("train.json", "val.json", "test.json"), "train.json val.json test.json"),
            (("Train.JSON", "Valid.json"), "Train.JSON Valid.json"),
            (("annotations_train.json", "annotations_val.json"), "annotations_train.json annotations_val.json"),
            (("train_annotations.json", "test_annotations.json"), "train_annotations.json test_annotations.json"),
            (("annotations/lvis_v1_train.json", "annotations/lvis_v1_val.json"), "lvis_v1_train.json lvis_v1_val.json"),
            (("person_keypoints_train.json", "person_keypoints_val.json"), None),
            (("coco-train.json", "coco-dev.json"), "coco-train.json coco-dev.json"),
            (
                (
                    *("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
                    *("annotations/person_keypoints_train2017.json", "annotations/person_keypoints_val2017.json"),
                    *("annotations/captions_train2017.json", "annotations/captions_val2017.json"),
                    *("annotations/image_info_test2017.json", "annotations/panoptic_train2017.json"),
                ),
                "instances_train2017.json instances_val2017.json",
            ),
            (("train/_annotations.coco.json", "valid/_annotations.coco.json"), None),
            (("train/annotations.json", "val/annotations.json"), None),
            (("train/labels.json", "validation/labels.json"), None),
            (("train/annotations/instances.json", "test/annotations/instances.json"), None),
            (("train/export 1.json", "val/export 2.json"), None),
            (("train.json.gz", "val.json.gz"), "train.json.gz val.json.gz"),
        )
    ):
        with case(names):
            folder = write_set(tmp_path / str(number), names)
            for file in folder.rglob("*.gz"):
                file.write_bytes(gzip.compress(file.read_bytes()))
            sources = find_sources(folder)
            expected = " ".join(name.rpartition("/")[2] for name in names) if expected is None else expected
            assert [source.args[-1].args[0].name for source in sources.values()] == (
                expected.split(" ") if "export" not in expected else ["export 1.json", "export 2.json"]
            )
            assert set(sources) <= {"train", "val", "test"} and len(sources["train"]()) == 1


def test_what_could_be_several_splits_is_asked_for(tmp_path):
    for number, names in enumerate(
        (("train_a.json", "train_b.json"), ("a_train.json", "b_train.json"), ("train/a.json", "train/b.json"))
    ):
        folder = write_set(tmp_path / str(number), [*names, "val.json"])
        with pytest.raises(AnnotationError, match=r"several files could be meant \(\S+, \S+\); give the file itself"):
            find_sources(folder)


def test_a_json_without_the_lists_of_coco_hides_nothing(tmp_path):
    """Settings and figures of training runs lie beside data sets of any form."""
    for number, name in enumerate(
        ("train_args.json", "train.json", "val.json", "test_metrics.json", "instances_train.json")
    ):
        with case(name):
            folder = tmp_path / str(number)
            for split in ("train", "val"):
                write_picture(folder / f"images/{split}/{split}.jpg", seed=len(split))
                (folder / f"labels/{split}").mkdir(parents=True)
                (folder / f"labels/{split}/{split}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
            (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [rose]\n")
            write_json(folder / name, {"lr": 0.01})
            assert len(read_dataset(folder)["train"].ids) == 1
    write_set(tmp_path / "coco", ["train.json", "val.json"])
    write_json(tmp_path / "coco/test_results.json", {"AP": 0.5})
    assert list(find_sources(tmp_path / "coco")) == ["train", "val"]


def test_a_damaged_file_is_told_where_another_shows_what_it_is(tmp_path):
    folder = write_set(tmp_path, ["val.json"])
    (folder / "train.json").write_text("{oops")
    with pytest.raises(AnnotationError, match=r"train\.json: line 1, column 2"):
        read_dataset(folder)
    (folder / "val.json").write_text("{oops")
    with pytest.raises(AnnotationError, match=r"train\.json: line 1, column 2"):
        read_dataset(folder)


def test_packed_files_are_read_everywhere(tmp_path):
    path = write_coco_dataset(tmp_path)
    expected = by_image(read_coco(path))
    packed = tmp_path / "train.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert by_image(read_annotations(tmp_path)) == by_image(read_annotations(packed)) == expected
    results = tmp_path / "results.json.gz"
    results.write_bytes(gzip.compress(b'[{"image_id": 0, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5}]'))
    assert len(read_found(results, read_truth(packed, "bbox"), "bbox").scores) == 1
    good = packed.read_bytes()
    for bad in (good[:-9], good[:40], good[:30] + b"xxxxxx" + good[36:], b"\x1f\x8b"):
        packed.write_bytes(bad)
        with pytest.raises(AnnotationError, match=r"train\.json\.gz: cannot be read: \w"):
            read_coco(packed)
        with pytest.raises(AnnotationError, match=r"train\.json\.gz: cannot be read: \w"):
            read_annotations(tmp_path)


def test_images_beside_the_file_of_a_split(tmp_path):
    for place in ("train/data", "train/images", "train"):
        folder = tmp_path / place.replace("/", "_")
        write_picture(folder / place / "a.jpg")
        write_json(folder / "train/labels.json", CONTENT)
        assert read_annotations(folder).paths.tolist() == [str(folder / place / "a.jpg")]


def test_lvis_names_images_by_their_address(tmp_path):
    content = json.loads(json.dumps(CONTENT))
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000%2031.jpg"
    write_picture(tmp_path / "train2017/000000000 31.jpg")
    data = read_coco(write_json(tmp_path / "annotations/lvis_v1_train.json", content))
    assert data.paths.tolist() == [str(tmp_path / "train2017/000000000 31.jpg")]


def test_names_under_another_key_are_told(tmp_path):
    for key in ("filename", "name", "path"):
        content = coco_content()
        for image in content["images"]:
            image[key] = image.pop("file_name")
        message = rf"train\.json: images\[0\] \(id 5\) has no file_name; rename '{key}', which it has, to 'file_name'"
        with pytest.raises(AnnotationError, match=message):
            read_coco(write_json(tmp_path / "train.json", content))


def test_a_panoptic_file_is_told_apart(tmp_path):
    info = [{"id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}]
    content = CONTENT | {"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": info}]}
    for text in (json.dumps(content), json.dumps(content).replace('"id": 1,', '"id": 1.0,')):
        (tmp_path / "panoptic_train.json").write_text(text)
        (tmp_path / "panoptic_val.json").write_text(text)
        with pytest.raises(AnnotationError, match=r"panoptic_train\.json: is a COCO panoptic file.*file of instances"):
            read_dataset(tmp_path)


def test_folders_that_have_a_split_in_their_name(tmp_path):
    for folder in ("train_images", "val_images"):
        write_json(tmp_path / folder / "annotations.json", coco_content())
    assert set(find_sources(tmp_path)) == {"train", "val"}
    write_json(tmp_path / "train_night/annotations.json", coco_content())
    with pytest.raises(AnnotationError, match=r"train_images and train_night could all be of the split 'train'; join"):
        find_sources(tmp_path)
    write_json(tmp_path / "train/annotations.json", coco_content())
    assert set(find_sources(tmp_path)) == {"train", "val"}


def test_validation_alone_is_divided_only_as_a_file(tmp_path):
    """COCO's val2017 downloaded alone."""
    write_set(tmp_path, ["annotations/instances_val2017.json"])
    with pytest.raises(AnnotationError, match=r"or divide its file, given itself, by --val-share 0\.2"):
        read_dataset(tmp_path)
    file = tmp_path / "annotations/instances_val2017.json"
    assert len(read_dataset(file, val_share=0.5)["train"]) == 1
