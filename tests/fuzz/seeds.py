"""Small good examples of the annotation formats, with every kind of shape that they have."""

import base64
import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detseg.data.formats.label_studio_brush import encode_brush
from detseg.data.formats.outlines import mask_png

WIDTH, HEIGHT = 16, 12
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[3:7, 2:9] = True
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[3:7, 2:9] = 1
LABELS[0:2, 0:3] = 2
TRIANGLE = [[1, 2], [11, 2], [11, 9]]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def pictures(folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        picture(folder / name, seed)


def text(file: Path, content: str | Any) -> Path:
    """Write text, or JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def coco(folder: Path) -> list[Path]:
    pictures(folder / "images", "a.png", "b.png")
    images = [{"id": i, "file_name": f"{name}.png", "width": 16, "height": 12} for i, name in enumerate("ab")]
    rle = {"size": [12, 16], "counts": [14, 6] + [6, 6] * 3 + [136]}
    packed = {"size": [12, 16], "counts": "`0;"}
    shapes: list[Any] = [[[1, 2, 11, 2, 11, 9]], rle, [[1, 1, 5, 1, 5, 5], [7, 7, 9, 7, 9, 9]], None, packed]
    annotations = [
        {
            **{"id": i, "image_id": i % 2, "category_id": (7, 3)[i % 2], "bbox": [1 + i, 2.5, 5, 6]},
            **{"area": 30.5, "iscrowd": int(i == 1), "segmentation": shape},
        }
        for i, shape in enumerate(shapes)
    ]
    for annotation in annotations:
        if annotation["segmentation"] is None or annotation["segmentation"] is packed:
            del annotation["segmentation"]
    categories = [{"id": 7, "name": "rose"}, {"id": 3, "name": "daisy", "supercategory": "flower"}]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    return [text(folder / "train.json", content)]


VOC = """<annotation><folder>x</folder><filename>{name}.png</filename><path>/x/{name}.png</path>
<size><width>16</width><height>12</height><depth>3</depth></size><segmented>0</segmented>
<object><name>rose</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8.5</ymax></bndbox>
<part><name>leaf</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></part></object>
<object><name>daisy</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax>
</bndbox></object></annotation>
"""


def voc(folder: Path) -> list[Path]:
    pictures(folder / "JPEGImages", "a.png", "b.png")
    files = [text(folder / f"Annotations/{name}.xml", VOC.format(name=name)) for name in "ab"]
    return [*files, text(folder / "ImageSets/Main/train.txt", "a\nb\n"), text(folder / "classes.txt", "rose\ndaisy\n")]


def voc_masks(folder: Path) -> list[Path]:
    files = voc(folder)[:1]
    for name in "ab":
        for kind in ("SegmentationClass", "SegmentationObject"):
            image = Image.fromarray(LABELS)
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * 747])
            (folder / kind).mkdir(exist_ok=True)
            image.save(folder / f"{kind}/{name}.png")
            files.append(folder / f"{kind}/{name}.png")
    return [*files, text(folder / "ImageSets/Segmentation/train.txt", "a\nb\n")]


def yolo(folder: Path, name: str = "data.yaml") -> list[Path]:
    pictures(folder / "images/train", "a.png", "b.png")
    pictures(folder / "images/val", "c.png")
    yaml = "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames:\n  0: rose\n  1: daisy\n"
    rows = "0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.9 0.1 0.9 0.8\n"
    files = [text(folder / f"labels/{place}.txt", rows) for place in ("train/a", "val/c")]
    return [*files, text(folder / name, yaml), text(folder / name, yaml)]


def yolo_bare(folder: Path) -> list[Path]:
    pictures(folder / "images", "a.png", "b.png")
    files = [text(folder / f"labels/{name}.txt", "0 0.5 0.5 0.25 0.5\n1 0.4 0.5 0.25 0.5 0.9\n") for name in "ab"]
    return [*files, text(folder / "classes.txt", "rose\ndaisy\n"), text(folder / "train.txt", "images/a.png\n")]


def yolo_key_points(folder: Path) -> list[Path]:
    pictures(folder / "images/train", "a.png")
    pictures(folder / "images/val", "c.png")
    yaml = "train: images/train\nval: images/val\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\nnames: [rose]\n"
    rows = "0 0.5 0.5 0.25 0.5 0.4 0.5 2 0.6 0.5 0\n"
    files = [text(folder / f"labels/{place}.txt", rows) for place in ("train/a", "val/c")]
    return [*files, text(folder / "data.yaml", yaml), text(folder / "data.yaml", yaml)]


def labelme(folder: Path) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    code = base64.b64encode(mask_png(MASK[3:7, 2:9])).decode()
    shapes = [
        ("rose", [[9, 8], [2, 3]], "rectangle", {}),
        ("rose", TRIANGLE, "polygon", {"group_id": 1}),
        ("rose", [[1, 1], [3, 1], [3, 3]], "polygon", {"group_id": 1}),
        ("daisy", [[6, 6], [8, 6]], "circle", {}),
        ("daisy", [[2, 3], [8, 6]], "mask", {"mask": code}),
        ("daisy", [[2, 3], [8, 6]], "line", {}),
    ]
    for name in "ab":
        items = [
            {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}
            for label, points, kind, more in shapes
        ]
        content = {"version": "5.5.0", "flags": {}, "shapes": items, "imagePath": f"{name}.png", "imageData": None}
        text(folder / f"{name}.json", {**content, "imageHeight": 12, "imageWidth": 16})
    return [folder / "a.json", text(folder / "labels.txt", "__ignore__\n_background_\nrose\ndaisy\n")]


def cvat(folder: Path) -> list[Path]:
    pictures(folder / "images", "a.png", "b.png")
    labels = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in ("rose", "daisy"))
    shapes = """<box label="rose" occluded="0" xtl="1" ytl="2" xbr="9.5" ybr="8" rotation="30.0" z_order="0"></box>
<polygon label="rose" points="1.5,2;9,2.25;9,10" group_id="3"></polygon>
<polygon label="rose" points="1.5,2;3,2.25;3,10" group_id="3"></polygon>
<ellipse label="daisy" cx="8" cy="6" rx="4" ry="3" rotation="90"></ellipse>
<mask label="daisy" rle="0, 5, 2, 3" left="2" top="3" width="5" height="2"></mask>
<polyline label="rose" points="1,2;3,4"></polyline>
"""
    rows = [f'<image id="{i}" name="{name}.png" width="16" height="12">{shapes}</image>' for i, name in enumerate("ab")]
    meta = f"<meta><task><id>4</id><name>x</name><labels>{labels}</labels></task></meta>"
    content = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{"".join(rows)}'
    return [text(folder / "annotations.xml", f"{content}</annotations>")]


def label_studio(folder: Path) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    rect = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 5}
    polygon = {"points": [[10, 10], [50, 10], [50, 50]], "closed": True}
    ellipse = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 0}
    brush = {"format": "rle", "rle": encode_brush(MASK)}
    kinds = (("rectangle", rect), ("polygon", polygon), ("ellipse", ellipse), ("brush", brush))
    size = {"original_width": 16, "original_height": 12, "image_rotation": 0, "from_name": "label", "to_name": "image"}
    results = [
        {"id": f"r{i}", "type": f"{kind}labels", "value": {**value, f"{kind}labels": ["rose"]}, **size}
        for i, (kind, value) in enumerate(kinds)
    ]
    annotation = {"id": 1, "was_cancelled": False, "ground_truth": False, "result": results}
    tasks = [
        {"id": i, "annotations": [annotation], "predictions": [], "data": {"image": f"/data/upload/1/{name}.png"}}
        for i, name in enumerate("ab")
    ]
    return [text(folder / "project-1.json", tasks)]


def label_studio_min(folder: Path) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    rect = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["rose"]}
    rect |= {"original_width": 16, "original_height": 12}
    return [text(folder / "min.json", [{"image": f"{n}.png", "id": 1, "label": [rect, rect | {"x": 2}]} for n in "ab"])]


def via(folder: Path, project: bool = True) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    shapes = [
        {"name": "rect", "x": 2, "y": 3, "width": 7, "height": 5},
        {"name": "polygon", "all_points_x": [1, 11, 11], "all_points_y": [2, 2, 9]},
        {"name": "circle", "cx": 8, "cy": 6, "r": 3},
        {"name": "ellipse", "cx": 8, "cy": 6, "rx": 4, "ry": 3, "theta": 0.5},
        {"name": "polyline", "all_points_x": [1, 9, 9, 1], "all_points_y": [1, 1, 9, 1]},
        {"name": "point", "cx": 1, "cy": 2},
    ]
    regions = [
        {"shape_attributes": s, "region_attributes": {"class": ("rose", "1")[i % 2]}} for i, s in enumerate(shapes)
    ]
    names = ("a.png", "b.png")
    images = {f"{n}12": {"filename": n, "size": 12, "regions": regions, "file_attributes": {}} for n in names}
    attribute = {"type": "dropdown", "description": "", "options": {"rose": "", "1": "daisy"}, "default_options": {}}
    content = {
        "_via_settings": {"ui": {}, "core": {}, "project": {"name": "x"}},
        "_via_img_metadata": images,
        "_via_attributes": {"region": {"class": attribute}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(images),
    }
    return [text(folder / "via.json", content if project else images)]


def via_3(folder: Path) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    files = (("1", "a.png"), ("2", "b.png"))
    content = {
        "project": {"pid": "x", "data_format_version": "3.1.1", "vid_list": ["1", "2"]},
        "config": {"file": {"loc_prefix": {"1": ""}}},
        "attribute": {"1": {"aname": "class", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"0": "rose"}}},
        "file": {i: {"fid": i, "fname": name, "type": 2, "loc": 1, "src": ""} for i, name in files},
        "metadata": {
            "1_x": {"vid": "1", "flg": 0, "z": [], "xy": [2, 2, 3, 7, 5], "av": {"1": "0"}},
            "1_y": {"vid": "1", "flg": 0, "z": [], "xy": [7, 1, 2, 11, 2, 11, 9], "av": {"1": "0"}},
        },
        "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
    }  # fmt: skip
    return [text(folder / "via.json", content)]


def via_csv(folder: Path) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    shape = json.dumps({"name": "rect", "x": 2, "y": 3, "width": 7, "height": 5}).replace('"', '""')
    heads = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    rows = [f'{n}.png,12,"{{}}",1,0,"{shape}","{{""class"":""rose""}}"\n' for n in "ab"]
    return [text(folder / "via.csv", heads + "".join(rows))]


def createml(folder: Path) -> list[Path]:
    pictures(folder / "train", "a.png", "b.png")
    objects = [
        {"label": label, "coordinates": {"x": 6, "y": 5, "width": 7, "height": 5}} for label in ("rose", "daisy")
    ]
    content = [{"image": f"{name}.png", "annotations": objects} for name in "ab"]
    return [text(folder / "train/_annotations.createml.json", content)]


def labelbox(folder: Path) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    objects = [
        {"name": "rose", "bounding_box": {"top": 3, "left": 2, "height": 5, "width": 7}},
        {"name": "daisy", "polygon": [{"x": x, "y": y} for x, y in TRIANGLE]},
        {"name": "rose", "annotation_kind": "ImageSegmentationMask", "mask": {"url": "https://x.org/x.png"}},
    ]
    details = {"created_at": "2024-01-01T00:00", "is_benchmark_reference": False}
    label = {"id": "l", "label_details": details, "annotations": {"objects": objects, "classifications": []}}
    rows = [
        {
            "data_row": {"id": "cl", "external_id": f"{name}.png", "row_data": f"https://s.org/{name}.png?token=1"},
            "media_attributes": {"height": 12, "width": 16, "asset_type": "image"},
            "projects": {"cm": {"name": "x", "labels": [label], "project_details": {}}},
        }
        for name in "ab"
    ]
    return [text(folder / "export.ndjson", "".join(f"{json.dumps(row)}\n" for row in rows))]


def labelbox_old(folder: Path) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    objects = [{"value": "rose", "title": "rose", "bbox": {"top": 3, "left": 2, "height": 5, "width": 7}}]
    objects += [{"value": "daisy", "title": "daisy", "polygon": [{"x": x, "y": y} for x, y in TRIANGLE]}]
    rows = [
        {"ID": "x", "External ID": f"{n}.png", "Labeled Data": f"https://s/{n}.png", "Label": {"objects": objects}}
        for n in "ab"
    ]
    return [text(folder / "export.json", rows)]


def supervisely(folder: Path) -> list[Path]:
    code = base64.b64encode(zlib.compress(mask_png(MASK[3:7, 2:9]))).decode()
    corners = {"exterior": [[2, 3], [8, 7]], "interior": []}
    outline = {"exterior": TRIANGLE, "interior": [[[9, 3], [10, 3], [10, 4]]]}
    objects = [
        {"classTitle": "rose", "geometryType": "rectangle", "points": corners, "tags": []},
        {"classTitle": "rose", "geometryType": "polygon", "points": outline, "tags": []},
        {"classTitle": "daisy", "geometryType": "bitmap", "bitmap": {"data": code, "origin": [2, 3]}},
    ]
    pictures(folder / "ds/img", "a.png", "b.png")
    for name in "ab":
        content = {"description": "", "tags": [], "size": {"height": 12, "width": 16}, "objects": objects}
        text(folder / f"ds/ann/{name}.png.json", content)
    classes = [{"title": title, "shape": "any", "color": "#FF0000", "id": 1} for title in ("rose", "daisy")]
    return [folder / "ds/ann/a.png.json", text(folder / "meta.json", {"classes": classes, "tags": []})]


def datumaro(folder: Path) -> list[Path]:
    pictures(folder / "images/train", "a.png", "b.png")
    rle = {"size": [12, 16], "counts": "`0;"}
    kinds = [
        {"type": "bbox", "bbox": [1, 2.5, 7, 5], "attributes": {"is_crowd": True}},
        {"type": "polygon", "points": [1, 2, 11, 2, 11, 9]},
        {"type": "ellipse", "points": [2, 2, 9, 8]},
        {"type": "rotated_bbox", "bbox": [8, 6, 6, 4, 90]},
        {"type": "mask", "rle": rle},
        {"type": "label"},
    ]
    base = {"id": 0, "label_id": 0, "group": 0, "z_order": 0, "attributes": {}}
    items = [
        {"id": n, "annotations": [base | kind for kind in kinds], "image": {"path": f"{n}.png", "size": [12, 16]}}
        for n in "ab"
    ]
    names = {"label": {"labels": [{"name": n, "parent": ""} for n in ("rose", "daisy")]}}
    return [text(folder / "annotations/train.json", {"info": {}, "categories": names, "items": items})]


def kitti(folder: Path) -> list[Path]:
    pictures(folder / "training/image_2", "000000.png", "000001.png")
    rows = "Car 0.00 0 1.85 2.0 3.0 9.0 8.5 1.67 1.87 3.69 -16.53 2.39 58.49 1.57\n"
    rows += "DontCare -1 -1 -10 1 1 4 4 -1 -1 -1 -1000 -1000 -1000 -10\n"
    rows += "Rose 0.00 2 1.85 1.0 1.0 9.0 8.5 1.67 1.87 3.69 -16.53 2.39 58.49 1.57 0.9\n"
    return [text(folder / f"training/label_2/{name}.txt", rows) for name in ("000000", "000001")]


def visdrone(folder: Path) -> list[Path]:
    root = folder / "VisDrone2019-DET-train"
    pictures(root / "images", "a.png", "b.png")
    return [text(root / f"annotations/{n}.txt", "2,3,7,5,1,4,0,0\n1,1,4,4,0,0,0,1,\n2,2,6,6,1,1,1,2\n") for n in "ab"]


def open_images(folder: Path) -> list[Path]:
    pictures(folder / "train", "0a1.png", "0b2.png")
    heads = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    heads += "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
    rows = "0a1,xclick,/m/06m11,1,0.25,0.5,0.125,1,0,0,0,0,0\n0b2,xclick,/m/07j7r,1,0,1,0,0.5,0,1,1,0,0\n"
    names = text(folder / "class-descriptions-boxable.csv", "/m/06m11,Rose\n/m/07j7r,Tree\n")
    return [text(folder / "train-annotations-bbox.csv", heads + rows), names]


def dlib(folder: Path) -> list[Path]:
    pictures(folder, "a.png", "b.png")
    box = "<box top='3' left='2' width='7' height='5'><label>rose</label><part name='0' x='3' y='4'/></box>"
    box += "<box top='1' left='1' width='4' height='4' ignore='1'/>"
    images = "".join(f"<image file='{n}.png' width='16' height='12'>{box}</image>" for n in "ab")
    return [
        text(folder / "train.xml", f"<?xml version='1.0'?><dataset><name>x</name><images>{images}</images></dataset>")
    ]


def box_table(folder: Path) -> list[Path]:
    pictures(folder / "images", "a.png", "b.png")
    rows = "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,16,12,rose,2,3,9,8\nb.png,16,12,daisy,1,1,4,5.5\n"
    return [text(folder / "train.csv", f"{rows}b.png,16,12,rose,5,5,9,9\n")]


def box_table_headless(folder: Path) -> list[Path]:
    pictures(folder / "images", "a.png", "b.png")
    text(folder / "classes.csv", "rose,0\ndaisy,1\n")
    rows = "images/a.png,2,3,9,8,rose\nimages/a.png,1,1,4,5,daisy\nimages/b.png,,,,,\n"
    return [text(folder / "train.csv", rows), folder / "classes.csv"]


def box_lists(folder: Path) -> list[Path]:
    pictures(folder / "images", "a.png", "b.png")
    rows = 'image_id,width,height,bbox,label\na,16,12,"[2.0, 3, 7, 5]",rose\nb,16,12,"[1, 1, 4, 4]",daisy\n'
    return [text(folder / "train.csv", rows)]


def instance_masks(folder: Path) -> list[Path]:
    files = []
    for seed, name in enumerate("ab"):
        picture(folder / f"images/{name}.png", seed)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(LABELS.astype(np.uint16) if seed else LABELS).save(folder / f"masks/{name}.png")
        files.append(folder / f"masks/{name}.png")
    return [*files, text(folder / "classes.txt", "rose\n"), text(folder / "train.txt", "a\nb\n")]


def mask_folders(folder: Path, listed: str = "background\nrose\ndaisy\n") -> list[Path]:
    files = []
    for seed, name in enumerate("ab"):
        picture(folder / f"images/{name}.jpg", seed)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(LABELS).save(folder / f"masks/{name}.png")
        files.append(folder / f"masks/{name}.png")
    return [*files, text(folder / "classes.txt", listed), text(folder / "train.txt", "a\nb\n")]


def colour_masks(folder: Path) -> list[Path]:
    mask_folders(folder)
    (folder / "classes.txt").unlink()
    colours = np.array([(0, 0, 0), (250, 50, 83), (50, 183, 250)], np.uint8)
    for name in "ab":
        Image.fromarray(colours[LABELS]).save(folder / f"masks/{name}.png")
    content = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nrose:250,50,83::\ndaisy:50,183,250::\n"
    return [folder / "masks/a.png", text(folder / "labelmap.txt", content)]


def class_folders(folder: Path) -> list[Path]:
    names = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in ("daisy", "rose") for i in range(2)]
    pictures(folder, *names)
    return [text(folder / "classes.txt", "rose\ndaisy\n"), *(folder / name for name in names[:2])]


def label_table(folder: Path) -> list[Path]:
    pictures(folder / "images", "a.png", "b.png", "c.png")
    return [text(folder / "train.csv", "filename,label\na.png,rose\nb.png,daisy\nc.png,rose\n")]


def mnist(folder: Path) -> list[Path]:
    images = struct.pack(">4I", 0x803, 4, 5, 6) + np.arange(120, dtype=np.uint8).tobytes()
    labels = struct.pack(">2I", 0x801, 4) + bytes([1, 0, 1, 2])
    for name, content in (("train-images-idx3-ubyte", images), ("t10k-images-idx3-ubyte.gz", gzip.compress(images))):
        (folder / name).write_bytes(content)
        packed = name.endswith(".gz")
        other = name.replace("images", "labels").replace("idx3", "idx1")
        (folder / other).write_bytes(gzip.compress(labels) if packed else labels)
    return sorted(folder.iterdir())


def named_files(folder: Path) -> list[Path]:
    names = [f"{word}.{i}.png" for word in ("rose", "daisy") for i in range(2)]
    pictures(folder, *names)
    return [folder / names[0], text(folder / "classes.txt", "rose\ndaisy\n")]
