"""Data sets as they are downloaded: in folders of their own below the one that is given, images elsewhere."""

import logging

import pytest

from detseg.data.annotations import AnnotationError
from detseg.data.checks.validate import validate
from detseg.data.formats import (
    NotRecognisedError,
    find_mask_sources,
    find_sources,
    read_annotations,
    read_dataset,
    read_labels,
    read_masks,
    write_coco,
    write_voc,
    write_yolo,
)
from tests.data.annotation_samples import coco_content, make, write_coco_dataset, write_json, write_picture


@pytest.fixture
def sample(tmp_path):
    return make([[10, 5, 30, 35]], paths=[str(write_picture(tmp_path / "from/a.jpg"))])


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name.endswith("read")]


@pytest.mark.parametrize("write", [write_yolo, write_voc])
@pytest.mark.parametrize("place", ["one", "VOCdevkit/VOC2007", "a/b/c"])
def test_one_set_below_is_read_and_told(tmp_path, sample, caplog, write, place):
    root = tmp_path / "download"
    for split in ("train", "val"):
        write(sample, root / place, split, images="copy")
    (root / "README.md").write_text("hello")
    (root / ".git").mkdir()
    write(sample, root / ".git/hidden", "train")
    write(sample, root / "__MACOSX/hidden", "train")
    write_json(root / "package.json", {"name": "x"})
    with caplog.at_level(logging.WARNING):
        data = read_dataset(root)
    assert [part.boxes.round(4).tolist() for part in data.values()] == [[[10, 5, 30, 35]]] * 2
    title = {write_yolo: "YOLO", write_voc: "VOC"}[write]
    assert told(caplog) == [f"{title} found in {root / place}"]
    assert validate(data["train"]) == []


def test_several_sets_below_are_listed(tmp_path, sample):
    for year in ("VOC2007", "VOC2012"):
        write_voc(sample, tmp_path / "VOCdevkit" / year)
    write_coco_dataset(tmp_path / "coco", "train.json")
    with pytest.raises(NotRecognisedError) as error:
        read_annotations(tmp_path)
    assert str(error.value).splitlines() == [
        f"{tmp_path}: several data sets are below, give the one that is meant:",
        f"  COCO in {tmp_path}/coco",
        f"  VOC in {tmp_path}/VOCdevkit/VOC2007",
        f"  VOC in {tmp_path}/VOCdevkit/VOC2012",
    ]


def test_folders_named_after_splits_are_splits(tmp_path, caplog):
    for split in ("train", "valid"):
        write_coco_dataset(tmp_path / "set" / split, "annotations/labels.json")
        (tmp_path / "set" / split / "images").rename(tmp_path / "set" / split / "pictures")
    with caplog.at_level(logging.WARNING):
        data = read_dataset(tmp_path)
    assert list(data) == ["train", "val"] and [validate(part, check_images=False) for part in data.values()]
    assert told(caplog) == [f"COCO found in {tmp_path}/set"]
    assert data["val"].paths[0] == f"{tmp_path}/set/valid/pictures/b.jpg"


def test_nothing_deeper_and_nothing_by_a_guess(tmp_path):
    write_coco_dataset(tmp_path / "a/b/c/d", "train.json")
    write_json(tmp_path / "node/package.json", {"name": "x"})
    write_json(tmp_path / "node/config.json", {"x": 1})
    (tmp_path / "links").symlink_to(tmp_path)
    (tmp_path / "dataset.yaml").write_text("outs: [model.pt]\n")
    with pytest.raises(NotRecognisedError, match="Looked for"):
        read_annotations(tmp_path)


def test_a_link_to_a_set_is_followed_once(tmp_path, sample, caplog):
    write_voc(sample, tmp_path / "disk/set")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "disk/set")
    assert len(read_annotations(root).ids) == 1 and told(caplog) == [f"VOC found in {root}/a"]


def test_a_damaged_set_below_is_named(tmp_path, sample):
    write_yolo(sample, tmp_path / "set")
    (tmp_path / "set/data.yaml").write_text("train: [")
    with pytest.raises(AnnotationError, match=r"set/data\.yaml: cannot be read as YAML"):
        read_annotations(tmp_path)
    write_voc(sample, tmp_path / "other")
    assert len(read_annotations(tmp_path).ids) == 1, "the whole one is meant"


@pytest.mark.parametrize("write", ["coco", "voc"])
def test_images_in_another_folder_below(tmp_path, sample, write):
    root = tmp_path / "download"
    (root / "photos/all").mkdir(parents=True)
    (tmp_path / "from/a.jpg").rename(root / "photos/all/a.jpg")
    if write == "coco":
        write_coco(sample, root / "meta/coco/train.json")
    else:
        write_voc(sample, root / "meta/voc", images="keep")
    data = read_annotations(root)
    assert data.paths.tolist() == [str(root / "photos/all/a.jpg")] and validate(data) == []
    data = read_annotations(root, images=root / "photos/all")
    assert data.paths.tolist() == [str(root / "photos/all/a.jpg")]


def test_images_that_are_nowhere_are_missing(tmp_path):
    write_json(tmp_path / "set/train.json", coco_content())
    write_picture(tmp_path / "other/x.jpg")
    data = read_annotations(tmp_path)
    assert {problem.kind for problem in validate(data)} == {"missing-image"}


def test_coco_as_it_is_published(tmp_path):
    for split in ("train", "val"):
        write_coco_dataset(tmp_path, f"annotations/instances_{split}2017.json")
        write_json(tmp_path / f"annotations/captions_{split}2017.json", {"images": [], "annotations": []})
    (tmp_path / "images").rename(tmp_path / "train2017")
    (tmp_path / "val2017").symlink_to(tmp_path / "train2017")
    data = read_dataset(tmp_path)
    assert [path.rpartition("/")[0] for path in data["val"].paths[:1].tolist()] == [f"{tmp_path}/val2017"]


def test_masks_and_labels(tmp_path, sample, caplog):
    root = tmp_path / "download"
    write_picture(root / "set/images/a.png")
    write_picture(root / "set/masks/a.png")
    write_yolo(sample, root / "boxes")
    assert read_masks(root).mask_paths.tolist() == [str(root / "set/masks/a.png")], "masks before drawn polygons"
    with pytest.raises(AnnotationError, match="with boxes, not with one class each"):
        read_labels(root / "boxes/images")
    with pytest.raises(NotRecognisedError, match=r"(?s)no masks recognised.*polygons or masks of objects"):
        read_masks(tmp_path / "from")


def test_what_is_there_is_told(tmp_path):
    for name in ("a/1.xyz", "a/2.XYZ", "a/b/c.bmp", "d.log", ".hidden/x.txt", "a/.x.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(NotRecognisedError) as error:
        read_annotations(tmp_path)
    start = f"{tmp_path}: no annotations recognised. There are 1 .log in it, 2 .xyz in a, 1 .bmp in a/b. Looked for:\n"
    assert str(error.value).startswith(start)


def test_a_folder_without_anything(tmp_path):
    with pytest.raises(NotRecognisedError):
        find_sources(tmp_path)
    with pytest.raises(AnnotationError, match="does not exist"):
        find_sources(tmp_path / "nowhere")


def test_archives_are_to_be_unpacked(tmp_path):
    (tmp_path / "flowers.zip").write_bytes(b"PK")
    for path in (tmp_path, tmp_path / "flowers.zip"):
        for read in (read_annotations, read_masks, read_labels):
            with pytest.raises(
                NotRecognisedError, match=r"Unpack flowers\.zip first, and give the folder\. Looked for:"
            ):
                read(path)


def test_a_table_of_test_images_above_polygons(tmp_path):
    content = coco_content()
    write_json(tmp_path / "set/flowers/train.json", content)
    write_json(tmp_path / "set/flowers/val.json", content)
    (tmp_path / "set/test.csv").write_text("filename,class,xmin,ymin,xmax,ymax\na.jpg,rose,1,2,3,4\n")
    assert set(find_mask_sources(tmp_path / "set")) == {"train", "val"} == set(find_sources(tmp_path / "set"))
