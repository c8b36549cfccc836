"""Open Images: shares, codes of classes, groups, images without boxes, and the layouts it comes in."""

import pytest

from detseg.data import raise_on_problems, read_annotations, read_dataset, validate
from detseg.data.annotations import AnnotationError
from tests.data.annotation_samples import by_image, write_picture

V4 = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
V6 = V4.strip() + ",XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y\n"
ROSE, TREE = "0a1,xclick,/m/06m11,1,0.25,0.5,0.125,1,0,0,0,0,0", "0a1,xclick,/m/07j7r,1,0,1,0,0.5,0,1,1,0,0"
EXPECTED = {"0a1.jpg": [("Rose", False, [16, 6, 32, 48]), ("Tree", True, [0, 0, 64, 24])]}


def write(folder, split, *, heading=V4, place="", clicks=""):
    (folder / place).mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{row}{clicks}\n" for row in (ROSE, TREE))
    (folder / place / f"{split}-annotations-bbox.csv").write_text(heading + rows)
    (folder / place / "class-descriptions-boxable.csv").write_text("/m/06m11,Rose\n/m/07j7r,Tree\n/m/0cmf2,Airplane\n")


@pytest.mark.parametrize("heading", [V4, V6])
def test_boxes_groups_and_names(tmp_path, heading):
    write_picture(tmp_path / "train/0a1.jpg")
    write_picture(tmp_path / "validation/0a1.jpg", seed=1)
    for split in ("oidv6-train", "validation"):
        write(
            tmp_path, split, heading=heading, place="boxes" if heading == V4 else "", clicks=",0" * 8 * (heading == V6)
        )
    path = tmp_path / "boxes" if heading == V4 else tmp_path
    data = read_dataset(path, images=None)
    assert by_image(data["train"]) == by_image(data["val"]) == EXPECTED
    assert data["train"].names == ("Rose", "Tree")  # not the 600 of the list
    assert [str(p) for p in data["val"].paths] == [str(tmp_path / "validation/0a1.jpg")]
    raise_on_problems(validate(data["train"]))


def test_fiftyone_and_heading_of_classes(tmp_path):
    write_picture(tmp_path / "train/data/0a1.jpg")
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/metadata").mkdir()
    (tmp_path / "train/labels/detections.csv").write_text(f"{V4}{ROSE}\n{TREE}\n")
    (tmp_path / "train/metadata/classes.csv").write_text("LabelName,DisplayName\n/m/06m11,Rose\n/m/07j7r,Tree\n")
    assert by_image(read_annotations(tmp_path, "train")) == EXPECTED


def test_images_without_boxes_are_those_that_are_there(tmp_path):
    for seed, name in enumerate(("0a1", "0b2", "0c3")):
        write_picture(tmp_path / f"train/{name}.jpg", seed=seed)
    write(tmp_path, "train")
    (tmp_path / "train-images-boxable-with-rotation.csv").write_text(
        "ImageID,Subset,OriginalURL\n0a1,train,u\n0b2,train,u\n0c3,validation,u\n0d4,train,u\n"
    )
    assert by_image(read_annotations(tmp_path)) == EXPECTED | {"0b2.jpg": []}


def test_what_is_left_out_is_told(tmp_path, caplog):
    write_picture(tmp_path / "train/0a1.jpg")
    write(tmp_path, "train")
    (tmp_path / "class-descriptions-boxable.csv").unlink()
    (tmp_path / "train-annotations-object-segmentation.csv").write_text("MaskPath,ImageID,LabelName,BoxID\n")
    data = read_annotations(tmp_path)
    assert data.names == ("/m/06m11", "/m/07j7r")
    assert "2 classes have no name" in caplog.text and "masks are not read" in caplog.text


def test_damaged_rows_have_their_line(tmp_path):
    write_picture(tmp_path / "train/0a1.jpg")
    write(tmp_path, "train")
    file = tmp_path / "train-annotations-bbox.csv"
    file.write_text(f"{V4}{ROSE}\n0a1,xclick,/m/07j7r,1,0,a,0,0.5,0,1,1,0,0\n0a1,x\n")
    data = read_annotations(tmp_path)
    assert [p.what.split(":")[0] for p in validate(data)] == ["line 3", "line 4"] and len(data.ids) == 1
    file.write_text(" \n" + file.read_text())  # a line of blanks before the heading is none
    data = read_annotations(tmp_path)
    assert [p.what.split(":")[0] for p in validate(data)] == ["line 4", "line 5"] and len(data.ids) == 1
    file.write_text(f"{V4}{ROSE}\n,xclick,/m/07j7r,1,0,1,0,0.5,0,1,1,0,0\n")
    with pytest.raises(AnnotationError, match="line 3: there is no ImageID"):
        read_annotations(tmp_path)


def test_images_that_nobody_downloaded_are_left_out(tmp_path, caplog):
    """FiftyOne keeps the table of all images beside those of a part."""
    write_picture(tmp_path / "train/data/0a1.jpg")
    (tmp_path / "train/labels").mkdir()
    others = f"{ROSE.replace('0a1', '0b2')}\n{ROSE.replace('0a1', 'c' * 999)}"
    (tmp_path / "train/labels/detections.csv").write_text(f"{V4}{others}\n{ROSE}\n{TREE}\n")
    data = read_annotations(tmp_path)
    assert list(by_image(data)) == ["0a1.jpg"] and len(data.ids) == 2
    assert "2 of its 3 images are not there and are left out, the first is 0b2" in caplog.text
    (tmp_path / "train/data/0a1.jpg").unlink()
    assert len(read_annotations(tmp_path)) == 3, "all are missing: an error of each"
