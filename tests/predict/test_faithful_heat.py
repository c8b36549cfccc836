"""Heat of trained detectors: what it marks is what their scores follow from, by deletion and insertion."""

import numpy as np
import pytest
import torch

from detseg.boxes import box_iou
from detseg.classify.grad_cam import grad_cam
from detseg.data.dataset import DetectionDataset
from detseg.data.formats import read_annotations
from detseg.data.letterbox import letterbox_image
from detseg.detect.odam import heat, look
from detseg.flowers.dataset import write_flowers
from detseg.models import MODELS, build_model
from detseg.predict import Detector
from detseg.predict.explain_detections import explain_detections
from detseg.predict.predictor import model_input
from detseg.train.config import config_for

SIZE, BLOCK, GREY = 128, 8, 114


@pytest.fixture(scope="module", params=["yolo", "ssd", "faster_rcnn"])
def trained(request, tmp_path_factory):
    """A detector that knows six images by heart, these and their boxes."""
    folder = write_flowers(tmp_path_factory.mktemp("flowers"), train=6, val=1, size=(SIZE, SIZE), seed=2)
    data = read_annotations(folder / "train.json")
    images = [letterbox_image(DetectionDataset(data, SIZE).images[i], SIZE)[0] for i in range(len(data))]
    torch.manual_seed(0)
    options = MODELS[request.param].options_for(data, config_for("detector", request.param)(size=SIZE))
    architecture = {"kind": request.param, "backbone": "tf_efficientnet_lite0", "num_classes": len(data.categories)}
    model = build_model(architecture | options, pretrained=True).eval()
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    targets = [
        {
            "boxes": torch.from_numpy(data.boxes[s].astype(np.float32)),
            "labels": torch.from_numpy(data.labels[s].astype(np.int64)),
        }
        for s in (data.objects(i) for i in range(len(data)))
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for _ in range(80):
        optimizer.zero_grad()
        sum(model(batch, targets).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    categories = [{"id": category.id, "name": category.name} for category in data.categories]
    return Detector(model, {"categories": categories, "size": SIZE}), images, targets


def score_of(detector, images, box, label):
    """The highest score of detections of the label at a box, in each of several images."""
    found = detector.predict(images, score_threshold=0, batch_size=16)
    same = ((one, (one.labels == label) & (box_iou(one.boxes, box[None])[:, 0] > 0.5)) for one in found)
    return [float((one.scores * here).max(initial=0)) for one, here in same]


def areas(detector, image, order, box, label, steps=12):
    """Means of the score while blocks are greyed in an order, and while they come back into a grey image."""
    means = []
    for start, end in ((image, np.full_like(image, GREY)), (np.full_like(image, GREY), image)):
        now, seen = start.copy(), []
        for part in np.array_split(order, steps):
            for y, x in zip(*np.divmod(part, SIZE // BLOCK), strict=True):
                place = np.s_[y * BLOCK : (y + 1) * BLOCK, x * BLOCK : (x + 1) * BLOCK]
                now[place] = end[place]
            seen.append(now.copy())
        means.append(np.mean(score_of(detector, seen, box, label)))
    return means


def by_heat(pixels):
    """Blocks (row by row) of heat (S, S), the hottest first."""
    blocks = pixels.reshape(SIZE // BLOCK, BLOCK, SIZE // BLOCK, BLOCK).sum((1, 3)).ravel()
    return np.argsort(-blocks, kind="stable")


@pytest.mark.slow
def test_scores_follow_from_the_hottest_places(trained):
    """More than from random places, and than from those of Grad-CAM, which marks a class and not an object."""
    detector, images, targets = trained
    shares, sizes, found = [], [], {"ours": [], "random": [], "grad_cam": []}
    rng = np.random.default_rng(0)
    for image, target in zip(images, targets, strict=True):
        seen = explain_detections(detector, image, top=2)
        sight = look(detector.model, model_input(detector.model, image[None]))
        for row in range(len(seen.found)):
            box, label = seen.found.boxes[row], int(seen.found.labels[row])
            if box_iou(box[None], target["boxes"].numpy()).max() < 0.5:
                continue
            cam = grad_cam(sight.scores[row][None, None], sight.maps[-1])[0, 0]
            orders = {
                "ours": by_heat(seen.heat[row]),
                "random": rng.permutation((SIZE // BLOCK) ** 2),
                "grad_cam": by_heat(heat([cam], sight.strides[-1:], (SIZE, SIZE)).numpy()),
            }
            for name, order in orders.items():
                found[name].append(areas(detector, image, order, box, label))
            shares.append(seen.shares()[row])
            sizes.append((box[2] - box[0]) * (box[3] - box[1]) / SIZE**2)
    assert len(shares) >= 6
    deleted, inserted = ({name: np.mean([a[i] for a in ends]) for name, ends in found.items()} for i in (0, 1))
    assert np.mean(shares) > 2 * np.mean(sizes), (shares, sizes)
    for other in ("random", "grad_cam"):
        assert deleted["ours"] < 0.7 * deleted[other] and inserted["ours"] > 1.2 * inserted[other], (deleted, inserted)
