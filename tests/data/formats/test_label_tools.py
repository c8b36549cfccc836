"""Sets as LabelImg and OpenLabeler write them.

LabelImg (https://github.com/HumanSignal/labelImg) saves a VOC or YOLO file an image, by default beside it, YOLO with
classes.txt in the same folder. OpenLabeler (https://github.com/kinhong/OpenLabeler) saves VOC in annotations/, beside
images/, with polygons that count from 1.
"""

import pytest

from detseg.data.checks.validate import validate
from detseg.data.formats import read_annotations
from tests.data.annotation_samples import write_picture

LABELIMG = """<annotation verified="yes">
	<folder>photos</folder>
	<filename>a.jpg</filename>
	<path>C:\\Users\\ann\\photos\\a.jpg</path>
	<source>
		<database>Unknown</database>
	</source>
	<size>
		<width>64</width>
		<height>48</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
	<object>
		<name>Gänseblümchen</name>
		<pose>Unspecified</pose>
		<truncated>1</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>1</xmin>
			<ymin>6</ymin>
			<xmax>20</xmax>
			<ymax>48</ymax>
		</bndbox>
	</object>
</annotation>
"""
OPENLABELER = (
    '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
    "<annotation><folder>images</folder><filename>a.jpg</filename><path>/Users/ann/project/images/a.jpg</path>"
    "<source><database>Unknown</database></source><size><width>64</width><height>48</height><depth>3</depth></size>"
    "<segmented>0</segmented><object><name>rose</name><pose>Unspecified</pose><truncated>0</truncated>"
    "<difficult>0</difficult><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    "<polygon><x1>11</x1><y1>21</y1><x2>31</x2><y2>21</y2><x3>31</x3><y3>41</y3></polygon></object></annotation>"
)


@pytest.mark.parametrize("folder", ["", "annotations", "saved here"])
def test_labelimg_voc(tmp_path, folder):
    for name in "ab":
        write_picture(tmp_path / f"photos/{name}.jpg")
    file = tmp_path / (folder or "photos") / "a.xml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(LABELIMG, "utf-8")
    for place in {file.parent, tmp_path if folder else tmp_path / "photos"}:
        data = read_annotations(place)
        assert data.names == ("Gänseblümchen",) and data.boxes.tolist() == [[0, 5, 20, 48]]
        assert data.paths.tolist() == [str(tmp_path / "photos/a.jpg")] and validate(data) == []


def test_labelimg_yolo(tmp_path):
    """A class has the number of its line in classes.txt; an image that was not looked at has no file."""
    for seed, name in enumerate("ab"):
        write_picture(tmp_path / f"{name}.jpg", seed=seed)
    (tmp_path / "a.txt").write_text("16 0.195312 0.375000 0.234375 0.500000\n")
    classes = "dog person cat tv car meatballs marinara tomato noodle french chicken garlic onion pea wheat fry rose"
    (tmp_path / "classes.txt").write_text("\n".join(classes.split()) + "\n")
    data = read_annotations(tmp_path)
    assert data.names == tuple(classes.split()) and data.labels.tolist() == [16]
    assert data.boxes.round(3).tolist() == [[5, 6, 20, 30]] and len(data) == 2


def test_openlabeler(tmp_path):
    write_picture(tmp_path / "images/a.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/a.xml").write_text(OPENLABELER)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/label_map.pbtxt").write_text("item {\n  id: 1\n  name: 'rose'\n}\n")
    data = read_annotations(tmp_path)
    assert data.names == ("rose",) and data.boxes.tolist() == [[10, 20, 30, 40]] and validate(data) == []
    assert data.segments.polygons(0)[0].tolist() == [[10, 20], [30, 20], [30, 40]]
