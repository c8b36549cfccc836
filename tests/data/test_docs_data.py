"""The code in docs/data.md runs as printed."""

import re
from pathlib import Path

from detseg.data import read_dataset
from detseg.data.pack.datasets import write_pack
from tests.data.annotation_samples import coco_content, write_coco_dataset, write_json, write_picture

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, FORMATS_PAGE = DOCS / "data.md", DOCS / "formats.md"


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    write_coco_dataset(tmp_path / "flowers")
    val = coco_content()
    val["images"] = [val["images"][0] | {"file_name": "v.jpg"}]
    val["annotations"] = [item for item in val["annotations"] if item["image_id"] == 5]
    write_json(tmp_path / "flowers/val.json", val)
    write_picture(tmp_path / "flowers/images/v.jpg", seed=9)
    write_pack(tmp_path / "flowers.h5", read_dataset(tmp_path / "flowers"), 400)
    monkeypatch.chdir(tmp_path)

    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 8
    exec("\n".join(blocks), {})
    writing = next(
        block
        for block in re.findall(r"```python\n(.*?)```", FORMATS_PAGE.read_text(), re.DOTALL)
        if "write_coco" in block
    )
    exec(writing, {})

    assert "4 images, 4 objects of ('rose', 'daisy', 'water lily')" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "converted").iterdir()}
    assert written == {"train.json", "voc", "yolo", "masks"}


def test_the_list_of_classes_of_the_page(tmp_path):
    from detseg.data.formats.class_list import read_class_list

    (tmp_path / "classes.txt").write_text(re.search(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    found = read_class_list(tmp_path / "classes.txt")
    assert found.categories == ((0, "background"), (1, "daisy"), (4, "bluebell"))
    assert found.ignore_values == (255,)


def test_the_formats_of_the_page_are_read_as_it_says(tmp_path):
    from detseg.data import read_annotations

    page = FORMATS_PAGE.read_text()
    (tmp_path / "a.json").write_text(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    (tmp_path / "a.xml").write_text(re.search(r"```xml\n(.*?)```", page, re.DOTALL)[1])
    for name in ("a.json", "a.xml"):
        found = read_annotations(tmp_path / name)
        assert found.boxes.tolist() == [[10, 20, 210, 170]]
        assert found.names == ("daisy",)
    yolo = tmp_path / "yolo"
    for split in ("train", "val"):
        write_picture(yolo / f"images/{split}/meadow.jpg", 640, 480)
        (yolo / f"labels/{split}").mkdir(parents=True)
        (yolo / f"labels/{split}/meadow.txt").write_text(re.search(r"\(`(0 0\.172.*?)`\)", page)[1])
    (yolo / "data.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    assert abs(read_annotations(yolo, "val").boxes - [[10, 20, 210, 170]]).max() < 0.5
