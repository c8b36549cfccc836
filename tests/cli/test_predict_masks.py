"""`detseg predict` with a detector that finds masks: drawings, run lengths, polygons, label images; --size, --tta."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

import detseg
from detseg.backbones import create_deepest
from detseg.cli import main
from detseg.data.images import read_image
from detseg.detect.model import DetectionModel
from detseg.models import MODELS, register_model, save_model

SIZE = 64
SEEN = set()  # sides of the images that the network was given


class Coloured(DetectionModel):
    """Finds what is red and what is green: a box and a mask in the pixels of its input each."""

    max_detections = 10

    def __init__(self, backbone, num_classes):
        super().__init__(backbone)
        self.backbone = backbone

    @property
    def finds_masks(self):
        return True

    def forward(self, images, targets=None):
        SEEN.add(images.shape[-1])
        return [self.find(image) for image in images]

    def find(self, image):
        masks = [(label, image[label] > 130) for label in (0, 1) if (image[label] > 130).any()]
        boxes = [[m.any(0).nonzero().min(), m.any(1).nonzero().min(), m.any(0).nonzero().max() + 1,
                  m.any(1).nonzero().max() + 1] for _, m in masks]  # fmt: skip
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.tensor([0.9, 0.2])[: len(masks)],
            "labels": torch.tensor([label for label, _ in masks], dtype=torch.int64),
            "masks": torch.stack([m for _, m in masks]).float() if masks else torch.zeros(0, *image.shape[1:]),
        }


def scene(width, height):
    """A red ring with a second part, under it a green bar."""
    image = np.full((height, width, 3), 20, np.uint8)
    red, green = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    red[8 : height // 2, 8 : width // 2] = red[8 : height // 4, 3 * width // 4 :] = 1
    red[16 : height // 2 - 8, 16 : width // 2 - 8] = 0
    green[height // 2 + 8 : height // 2 + 24, 5 : width - 10] = 1
    image[..., 0][red > 0] = image[..., 1][green > 0] = 220
    return image, [red, green]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A run and two images with annotations."""
    folder = tmp_path_factory.mktemp("masks")
    known = dict(MODELS._entries)
    register_model("coloured", task="detect")(Coloured)
    categories = [{"id": 7, "name": "red"}, {"id": 3, "name": "green"}]
    architecture = {"kind": "coloured", "backbone": "test_efficientnet", "num_classes": 2}
    model = Coloured(create_deepest("test_efficientnet"), 2)
    (folder / "run").mkdir()
    save_model(folder / "run", model, {"architecture": architecture, "categories": categories, "size": SIZE})
    content = {"images": [], "annotations": [], "categories": categories}
    for number, size in ((11, (128, 128)), (12, (192, 128))):
        image, masks = scene(*size)
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
        for category, mask in zip(categories, masks, strict=True):
            code = coco.encode(np.asfortranarray(mask))
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category["id"],
                    "bbox": coco.toBbox(code).tolist(),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                }
            )
    (folder / "val.json").write_text(json.dumps(content))
    yield SimpleNamespace(folder=folder, run=folder / "run", truth=folder / "val.json")
    MODELS._entries = known


def predict(toy, *words):
    return main(["predict", str(toy.run), "--image-ids", str(toy.truth), *map(str, words)])


def results_of(folder):
    return json.loads((folder / "detections.json").read_text())


def decoded(result, size):
    segmentation = result["segmentation"]
    if isinstance(segmentation, dict):
        return coco.decode(segmentation)
    return coco.decode(coco.merge(coco.frPyObjects(segmentation, *size)))


def evaluated(toy, folder, capsys):
    capsys.readouterr()
    files = ["--ground-truth", str(toy.truth), "--detections", str(folder / "detections.json")]
    assert main(["evaluate", *files, "--iou-type", "segm", "--resamples", "0", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["figures"]


def test_run_lengths_in_the_pixels_of_the_image(toy, tmp_path, capsys):
    assert predict(toy, "--output", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{toy.folder / '11.png'}: 1 red",
        f"{toy.folder / '12.png'}: 1 red",
        f"images with boxes and masks and detections.json are in {tmp_path}",
    ]
    results = results_of(tmp_path)
    assert [(r["image_id"], r["category_id"]) for r in results] == [(11, 7), (11, 3), (12, 7), (12, 3)]
    for result in results:
        image = read_image(toy.folder / f"{result['image_id']}.png")
        truth = image[..., 0 if result["category_id"] == 7 else 1] > 130
        mask = decoded(result, image.shape[:2])
        assert mask.shape == truth.shape
        assert (mask & truth).sum() / (mask | truth).sum() > 0.8
    assert evaluated(toy, tmp_path, capsys)["AP50"] == 1


def test_polygons_are_the_masks_with_holes_filled(toy, tmp_path, capsys):
    for name, words in (("rle", []), ("polygons", ["--polygons"])):
        assert predict(toy, "--output", tmp_path / name, *words) == 0
    for coded, drawn in zip(results_of(tmp_path / "rle"), results_of(tmp_path / "polygons"), strict=True):
        size = coded["segmentation"]["size"]
        assert all(len(polygon) >= 6 for polygon in drawn["segmentation"])
        mask, filled = decoded(coded, size).astype(bool), decoded(drawn, size).astype(bool)
        assert len(drawn["segmentation"]) == (2 if coded["category_id"] == 7 else 1)
        assert (mask & ~filled).sum() < 8, "but for corners"
        if coded["category_id"] == 3:
            assert (mask != filled).sum() < 8
    assert evaluated(toy, tmp_path / "polygons", capsys)["AP"] > 0.4


def test_label_images_number_the_objects(toy, tmp_path, capsys):
    words = ["--output", tmp_path, "--label-images", "--score-threshold", 0.1]
    for _ in range(2):  # its own files may be overwritten
        assert predict(toy, *words) == 0
    assert f"masks, label images and detections.json are in {tmp_path}" in capsys.readouterr().out
    results = results_of(tmp_path)
    for number in (11, 12):
        with Image.open(tmp_path / f"{number}.png") as file:
            assert file.mode == "P"
            values = np.asarray(file)
        own = [result for result in results if result["image_id"] == number]
        for value, result in enumerate(own, 1):
            assert ((values == value) == decoded(result, values.shape)).all()
        assert set(np.unique(values)) == {0, 1, 2}
        drawn = cv2.imread(str(tmp_path / f"{number}.jpg"))[..., ::-1].astype(int)
        plain = read_image(toy.folder / f"{number}.png").astype(int)
        assert np.abs(drawn - plain)[values > 0].mean() > 30
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "11.png")
    assert predict(toy, *words) == 1
    assert "11.png: is there already, and not from an earlier prediction" in capsys.readouterr().err


def test_another_size_and_augmentation(toy, tmp_path, capsys):
    images = [read_image(toy.folder / f"{number}.png") for number in (11, 12)]
    SEEN.clear()
    for words in (["--size", 128], ["--tta"], ["--tta", "--size", 96]):
        assert predict(toy, "--output", tmp_path, *words) == 0
        assert evaluated(toy, tmp_path, capsys)["AP50"] == 1
    assert SEEN == {128, 64, 32 * 2, 96, 32 * 4, 32 * round(0.75 * 2)}
    model = detseg.load(toy.run)
    for options in ({}, {"size": 128}, {"tta": True}):
        for found, image in zip(model.predict(images, score_threshold=0, **options), images, strict=True):
            assert found["masks"].shape == (2, *image.shape[:2]) and found["masks"].dtype == bool
            for label, mask in zip(found["labels"], found["masks"], strict=True):
                truth = image[..., label] > 130
                assert (mask & truth).sum() / (mask | truth).sum() > 0.75, options


def test_a_run_is_evaluated_at_other_sizes(toy, capsys):
    for words in ([], ["--size", "128"], ["--tta"]):
        assert main(["evaluate", "--detections", str(toy.run), "--ground-truth", str(toy.truth), "--json", *words]) == 0
        assert json.loads(capsys.readouterr().out)["figures"]["AP50"] == 1


def test_mistakes(toy, run, small, tmp_path, capsys):
    (tmp_path / "dt.json").write_text("[]")
    evaluate = ["evaluate", "--ground-truth", str(toy.truth), "--detections"]
    for arguments, message in (
        (["predict", toy.run, toy.folder / "11.png", "--size", 100], "must be a multiple of 32, not 100; 96 is near"),
        (["predict", run.folder, small / "images/val0.png", "--polygons"], "finds boxes and no masks, for which there"),
        ([*evaluate, toy.run, "--size", 10], "must be a multiple of 32, not 10; 32 is near"),
        ([*evaluate, tmp_path / "dt.json", "--tta"], "is a file of detections; leave out --tta"),
    ):
        assert main([*map(str, arguments)]) == 1, arguments
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
