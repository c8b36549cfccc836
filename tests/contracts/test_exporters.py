"""Every registered model, exported in every form: images of other numbers and sizes than were traced, same results."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import detseg
from detseg.data.letterbox import letterbox_image
from detseg.detect.calibration import calibrated
from detseg.exporters import EXPORTERS, export
from detseg.exporters.graph import Final, suppressed
from detseg.exporters.letterbox import Letterboxed
from detseg.models import MODELS, build_model, save_model
from detseg.runtime import load
from detseg.tasks import task_of
from detseg.train.config import config_for
from detseg.train.runner import describe
from tests.contracts.test_models import SIZE, VARIANTS, annotations

# Those of two stages take as long as all others together.
RUNS = [pytest.param(one, marks=pytest.mark.slow) if one[0].endswith("rcnn") else one for one in VARIANTS]


@pytest.fixture(scope="module", params=RUNS, ids=lambda variant: "-".join([variant[0], *variant[1]]))
def run(request, tmp_path_factory):
    """A run folder with a small model of random weights, its predictor and some images."""
    name, options = request.param
    folder = tmp_path_factory.mktemp("run")
    config = config_for(task_of(MODELS[name].task), name)
    torch.manual_seed(0)
    architecture = describe(config(backbone="test_efficientnet", weights="none", size=SIZE, **options), annotations())
    categories = [{"id": 3 * i + 1, "name": word} for i, word in enumerate("abc")]
    model = build_model(architecture)
    save_model(folder, model, {"architecture": architecture, "categories": categories, "size": SIZE})
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (50 + 10 * i, 90 - 5 * i, 3), dtype=np.uint8) for i in range(3)]
    return SimpleNamespace(folder=folder, predictor=detseg.load(folder), images=images)


def found_by(predictor, images, **options):
    if predictor.task in ("detect", "localize"):
        return predictor.predict(images, score_threshold=0, **options)
    return predictor.predict(images, **options)


def assert_same(ours, theirs, tolerance=1e-4):
    """Results agree but for the order of detections whose scores are a rounding error apart."""
    assert type(ours) is type(theirs) and ours.names == theirs.names == ["a", "b", "c"]
    if hasattr(ours, "confidence"):
        assert (ours.mask == theirs.mask).mean() > 0.999
        np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=tolerance)
    elif not hasattr(ours, "boxes"):
        assert np.array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=tolerance)
    else:
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=tolerance)
        apart = np.abs(ours.boxes[:, None] - theirs.boxes[None]).max(2) + 1e3 * (
            ours.labels[:, None] != theirs.labels[None]
        )
        assert (apart.min(1) < 0.01).mean() > 0.9
        same = [i for i in range(len(ours)) if apart[i, i] < 0.01]
        assert len(same) > 0.8 * len(ours)
        if ours.masks is not None:
            assert (ours.masks[same] == theirs.masks[same]).mean() > 0.999


def test_final_results_are_those_of_the_model(run):
    model = run.predictor.model
    if model.task not in ("detect", "localize"):
        pytest.skip("no selection to compare")
    images = torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        number, boxes, scores, labels, *masks = Final(model, suppressed)(images)
        every = model(images)
    for i, wanted in enumerate(every):
        here = number == i
        torch.testing.assert_close(boxes[here], wanted["boxes"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(scores[here], calibrated(model, wanted["scores"]), atol=1e-6, rtol=1e-4)
        assert torch.equal(labels[here], wanted["labels"])
        if masks:
            torch.testing.assert_close(masks[0][here], wanted["masks"], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(masks[1][here], wanted["regions"], atol=1e-3, rtol=1e-4)


FORMS = ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in EXPORTERS if name != "onnx")]


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_model_predicts_the_same(run, form, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "torchscript": "torch"}.get(form, form))
    exported = load(export(run.folder, form, tmp_path / f"m.{EXPORTERS[form].ending}"), exact=True)
    assert exported.task == run.predictor.task and exported.categories == run.predictor.categories
    sizes = [{}, {"size": 96}] if exported.task == "detect" else [{}]
    for options in sizes:
        wanted = found_by(run.predictor, run.images, **options)
        for ours, theirs in zip(wanted, found_by(exported, run.images, **options), strict=True):
            assert_same(ours, theirs)
    assert found_by(exported, []) == []
    for predictor in (run.predictor, exported):
        assert_images_are_taken_as_people_have_them(predictor, run.images[0])


def assert_images_are_taken_as_people_have_them(predictor, image):
    """All forms of an image give the same; what is none is refused by name."""
    drawn, tensor = Image.fromarray(image), torch.from_numpy(image).permute(2, 0, 1)
    wanted, *every = found_by(predictor, [image, drawn, tensor, tensor / 255])
    for found in every:
        assert_same(wanted, found)
    assert len(found_by(predictor, drawn)) == 1
    for given in (None, b"abc", image / 255, image[..., 0], image[:0], tensor.permute(1, 2, 0)):
        with pytest.raises(ValueError, match="an image must"):
            found_by(predictor, given)
    with pytest.raises(ValueError, match=r"images\[1\]: an image must"):
        found_by(predictor, [image, None])


@pytest.mark.slow
@pytest.mark.parametrize("form", list(EXPORTERS))
def test_plain_maps_and_float_images(run, form, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "torchscript": "torch"}.get(form, form))
    path = export(run.folder, form, tmp_path / f"m.{EXPORTERS[form].ending}", floats=True)
    for ours, theirs in zip(*(found_by(p, run.images) for p in (run.predictor, load(path, exact=True))), strict=True):
        assert_same(ours, theirs)
    path = export(run.folder, form, tmp_path / f"raw.{EXPORTERS[form].ending}", raw=True)
    with pytest.raises(ValueError, match="without its selection"):
        load(path)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (90, 41), (33, 50), (200, 130), (3, 70), (129, 1)])
def test_letterboxing_in_the_graph_is_that_of_opencv(width, height):
    image = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    seen = []

    def final(square):
        seen.append(square)
        return torch.zeros(1, dtype=torch.int64), torch.tensor([[0.0, 0, 64, 64]]), torch.ones(1), torch.zeros(1)

    _, boxes, *_ = Letterboxed(final, 64)(torch.from_numpy(image).permute(2, 0, 1)[None])
    square, box = letterbox_image(image, 64)
    difference = np.abs((255 * seen[0][0].permute(1, 2, 0)).round().numpy() - square)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.2
    np.testing.assert_allclose(boxes[0].numpy(), box.to_original(np.array([[0.0, 0, 64, 64]]), (width, height))[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", list(EXPORTERS))
def test_a_detector_letterboxes_by_itself(run, form, tmp_path):
    if run.predictor.task not in ("detect", "localize"):
        with pytest.raises(ValueError, match="can letterbox by themselves"):
            export(run.folder, form, tmp_path / "m", letterbox=True)
        return
    path = export(run.folder, form, tmp_path / f"m.{EXPORTERS[form].ending}", letterbox=True)
    exported = load(path, exact=True)
    for ours, theirs in zip(found_by(run.predictor, run.images), found_by(exported, run.images), strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=2e-3)
    with pytest.raises(ValueError, match="64 pixels only"):
        exported.predict(run.images, size=96)
