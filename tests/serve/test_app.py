"""Answers to requests: predictions of each task, and what the server says of itself."""

import base64
import io
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from detseg.serve.app import FILES, PAGE
from tests.serve.served import NAMES, Told, client_of, image_file


def pixels_of(url):
    """The image in a data URL, and its type."""
    head, content = url.split(",")
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_UNCHANGED), head


def test_objects_have_names_scores_and_boxes_in_the_images_pixels():
    reply = client_of().post("/predict", content=image_file(size=(80, 60)))
    assert reply.status_code == 200
    found = reply.json()
    assert (found["task"], found["width"], found["height"], found["score_threshold"]) == ("detect", 80, 60, 0.3)
    assert found["objects"] == [
        {"name": NAMES[0], "label": 0, "score": 0.9, "box": [8.0, 12.0, 40.0, 36.0]},
        {"name": NAMES[1], "label": 1, "score": 0.6, "box": [32.0, 6.0, 72.0, 30.0]},
    ]


@pytest.mark.parametrize(("threshold", "count"), [("0", 3), ("0.1", 3), ("0.5", 2), ("0.9", 1), ("1", 0)])
def test_the_threshold_of_a_request_counts(threshold, count):
    found = client_of().post(f"/predict?score_threshold={threshold}", content=image_file()).json()
    assert len(found["objects"]) == count
    assert found["score_threshold"] == float(threshold)


def test_the_threshold_of_the_server_is_the_default():
    assert len(client_of(score_threshold=0.05).post("/predict", content=image_file()).json()["objects"]) == 3


def test_masks_come_as_polygons():
    model = Told(masks=True)
    found = client_of(model).post("/predict", content=image_file(size=(80, 60))).json()
    (polygon,) = found["objects"][0]["polygons"]
    corners = {(x, y) for x, y in zip(polygon[::2], polygon[1::2], strict=True)}
    assert corners == {(8, 12), (40, 12), (40, 36), (8, 36)}
    assert model.options == [{"score_threshold": 0.3, "batch_size": 1, "run_lengths": True}]


def test_a_localizer_answers_as_a_detector_does():
    assert client_of(Told("localize")).post("/predict", content=image_file()).json()["task"] == "localize"


def test_a_segmenter_gives_shares_and_a_map_of_labels():
    found = client_of(Told("segment")).post("/predict", content=image_file(size=(80, 60))).json()
    assert [(c["label"], c["share"], c["probability"]) for c in found["classes"]] == [
        (1, 0.5, 0.75),
        (0, 0.25, 0.75),
        (2, 0.25, 0.75),
    ]
    mask, head = pixels_of(found["mask"])
    assert head == "data:image/png;base64" and mask.shape == (60, 80)
    assert np.bincount(mask.ravel()).tolist() == [1200, 2400, 1200]
    assert "score_threshold" not in found


def test_a_classifier_gives_all_classes_the_likeliest_first():
    found = client_of(Told("classify")).post("/predict", content=image_file()).json()
    assert [(c["name"], c["label"], c["probability"]) for c in found["classes"]] == [
        (NAMES[1], 1, 0.7),
        (NAMES[0], 0, 0.2),
        (NAMES[2], 2, 0.1),
    ]


@pytest.mark.parametrize(
    "name", ["flower.png", "../../etc/passwd", "<script>alert(1)</script>.png", "", "a\u202eb\x7f"]
)
def test_a_form_does_as_well_whatever_its_file_is_called(name):
    client = client_of()
    expected = client.post("/predict", content=image_file()).json()
    reply = client.post("/predict", files={"file": (name or "x", image_file(), "text/html")}, data={"more": "text"})
    assert reply.json()["objects"] == expected["objects"]
    assert "script" not in json.dumps({**reply.json(), "objects": []})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_types_of_files_are_read_and_turned_upright(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind == "JPEG" else {}
    found = client_of().post("/predict", content=image_file(kind, (80, 60), **options)).json()
    assert (found["width"], found["height"]) == ((60, 80) if options else (80, 60))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1"])
def test_grey_and_transparent_images_are_read(mode):
    model = Told()
    content = image_file("PNG", mode="RGB" if mode == "P" else mode)
    if mode == "P":
        changed = io.BytesIO()
        Image.open(io.BytesIO(content)).quantize(16).save(changed, "PNG")
        content = changed.getvalue()
    assert client_of(model).post("/predict", content=content).status_code == 200
    assert model.shapes == [(60, 80, 3)]


def test_a_preview_is_a_smaller_jpeg_of_what_a_browser_cannot_show():
    found = client_of().post("/predict?preview=true", content=image_file("TIFF", (3000, 40))).json()
    image, head = pixels_of(found["preview"])
    assert head == "data:image/jpeg;base64" and image.shape == (27, 2048, 3)
    assert found["width"] == 3000


@pytest.mark.parametrize("channels", [1, 5])
def test_models_of_other_channels_get_them(channels):
    model = Told(channels=channels)
    if channels == 1:
        content = image_file("PNG", mode="L")
    else:
        tifffile = pytest.importorskip("tifffile")
        stream = io.BytesIO()
        tifffile.imwrite(stream, np.zeros((60, 80, 5), np.uint8), photometric="minisblack", planarconfig="contig")
        content = stream.getvalue()
    reply = client_of(model).post("/predict?preview=true", content=content)
    assert reply.status_code == 200, reply.text
    assert model.shapes == [(60, 80, channels)]
    assert pixels_of(reply.json()["preview"])[0].shape == (60, 80, 3)


def test_the_model_describes_itself():
    about = client_of(Told(masks=True), name="runs <b>").get("/model").json()
    assert about["names"] == NAMES and about["masks"] and about["name"] == "runs <b>"
    assert about["colors"][0] == "#e69f00" and len(set(about["colors"])) == 3
    assert about["limits"] == {"bytes": 32_000_000, "pixels": 64_000_000, "seconds": 60.0}
    assert {"JPEG", "PNG", "WEBP", "TIFF"} <= set(about["formats"])
    assert client_of(Told("classify")).get("/model").json()["score_threshold"] is None


def test_the_background_of_a_segmenter_has_no_colour():
    model = Told("segment")
    model.names = ["background", "rose"]
    assert client_of(model).get("/model").json()["colors"] == ["", "#e69f00"]


def test_health():
    assert client_of().get("/health").json() == {"status": "ok", "requests": 0}


def test_the_page_and_all_it_names_is_there_and_nothing_of_elsewhere():
    client = client_of()
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name, kind in FILES.items():
        reply = client.get(f"/static/{name}")
        assert reply.status_code == 200 and reply.headers["content-type"].startswith(kind)
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "").replace("{{ address }}", "")
        assert "http:" not in text and "https:" not in text and "innerHTML" not in text, file
        assert ' style="' not in text and "onclick" not in text, file  # which the policy forbids
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/index.html").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "nothing at this address"),
        ("GET", "/predict", 405, "another method"),
        ("POST", "/model", 405, "another method"),
        ("POST", "/predict?treshold=0.5", 400, "no option 'treshold' for this model, only preview, score_threshold"),
        ("POST", "/predict?score_threshold=1.5", 400, "score_threshold must be a number from 0 to 1, not '1.5'"),
        ("POST", "/predict?score_threshold=nan", 400, "score_threshold must be a number from 0 to 1, not 'nan'"),
        ("POST", "/predict?score_threshold=", 400, "not ''"),
        ("POST", "/predict?preview=perhaps", 400, "preview must be true or false"),
    ],
)
def test_errors_are_json_with_one_message(method, path, status, message):
    reply = client_of().request(method, path)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"] and message in reply.json()["error"]


def test_thresholds_are_for_objects():
    reply = client_of(Told("segment")).post("/predict?score_threshold=0.5", content=image_file())
    assert reply.status_code == 400 and "no option 'score_threshold'" in reply.json()["error"]


def test_what_fails_inside_is_logged_and_not_shown(caplog):
    class Broken(Told):
        def look(self, image, **options):
            raise RuntimeError("secret /home/someone")

    client = client_of(Broken())
    reply = client.post("/predict", content=image_file())
    assert reply.status_code == 500 and reply.json() == {"error": "the server failed at this request; its log says why"}
    assert "secret /home/someone" in caplog.text
    assert client.get("/health").json()["requests"] == 0


def test_not_a_number_fails_and_is_no_json():
    class Odd(Told):
        def look(self, image, **options):
            found = super().look(image, **options)
            found.scores[0] = np.nan
            return found

    assert client_of(Odd()).post("/predict", content=image_file()).status_code == 500


def test_an_exported_model_is_served_without_torch():
    code = "import sys, detseg.serve.app, detseg.runtime, detseg.cli.serve; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
