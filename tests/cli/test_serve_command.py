"""`detseg serve`: its options, its messages, and how it ends."""

import base64
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from detseg.cli import main
from detseg.cli.serve import Serve, address, listen, load, title
from tests.serve.served import Told, client_of, image_file

ROOT = Path(__file__).resolve().parents[2]

# The command with a model that is not loaded from anywhere.
SCRIPT = """
import sys
import detseg.cli.serve
from detseg.cli import main
from tests.serve.served import Told
detseg.cli.serve.load = lambda path, device: Told()
sys.exit(main(["serve", "runs/garden", "--port", "0", *sys.argv[1:]]))
"""


@pytest.fixture
def serving():
    """Starts the command in a process of its own; gives that and the lines up to the address."""
    started = []

    def start(*words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", SCRIPT, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # Tests may be started by what ignores Ctrl-C, which its children would take over.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        line = process.stdout.readline()
        return process, line, re.search(r"http://\S+", line)[0]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_it_prints_its_address_answers_and_ends_with_ctrl_c(serving):
    process, line, url = serving()
    assert line == f"runs/garden: {url}  (Ctrl-C ends it)\n" and url.startswith("http://127.0.0.1:")
    request = urllib.request.Request(f"{url}/predict", image_file(), {"Content-Type": "image/png"})
    assert b'"objects"' in urllib.request.urlopen(request).read()
    assert b'"garden"' in urllib.request.urlopen(f"{url}/model").read()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")


def test_it_warns_where_others_reach_it(serving):
    process, _, url = serving("--host", "0.0.0.0")
    assert url.startswith("http://127.0.0.1:")
    assert "warning: everyone who can reach this address" in process.stdout.readline()
    request = urllib.request.Request(f"{url}/health", headers={"Host": "box.example"})
    assert urllib.request.urlopen(request).status == 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port must be from 0 to 65535, not 70000"),
        (["--score-threshold", "2"], "--score-threshold is a share between 0 and 1, not 2"),
        (["--max-megabytes", "0"], "--max-megabytes must be positive"),
        (["--max-megapixels", "-1"], "--max-megapixels must be positive"),
        (["--timeout", "nan"], "--timeout must be positive"),
        (["--queue", "-1"], "--queue must be at least 0, not -1"),
        (["--host", "not.a.host.invalid"], "cannot listen at not.a.host.invalid, port 8000"),
        (["--port", "0"], "runs/none: no trained model here"),
    ],
)
def test_wrong_options_are_told(words, message, capsys):
    assert main(["serve", "runs/none", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "runs/none", "--port", str(port)]) == 1
    assert f"cannot listen at 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["starlette", "uvicorn", "python_multipart"])
def test_a_missing_package_is_told_with_what_installs_it(name, monkeypatch, capsys):
    monkeypatch.setattr("detseg.cli.serve.find_spec", lambda package: None if package == name else package)
    assert main(["serve", "runs/none"]) == 1
    assert capsys.readouterr().err == f"error: `detseg serve` needs {name}: pip install 'detseg[serve]'\n"


def test_files_are_opened_as_exported_models_and_engines_choose_their_device(tmp_path, monkeypatch):
    (tmp_path / "model.txt").write_text("text")
    with pytest.raises(ValueError, match=r"exported models end in \.onnx"):
        load(tmp_path / "model.txt", "auto")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    monkeypatch.setattr("detseg.runtime.load", lambda path, **_: Told())
    assert load(tmp_path / "model.onnx", "auto").task == "detect"
    assert title(tmp_path / "model.onnx") == f"{tmp_path.name}/model.onnx" and title(tmp_path) == tmp_path.name
    with pytest.raises(ValueError, match="its engine chooses the device; leave out --device"):
        load(tmp_path / "model.onnx", "cpu")


def test_an_address_can_be_typed_into_a_browser():
    for host, expected in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("localhost", "localhost")):
        with listen(host, 0) as listening:
            assert address(host, listening) == f"http://{expected}:{listening.getsockname()[1]}"


def test_the_page_of_the_docs_has_every_option_with_its_default():
    text = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `--([a-z-]+)` \| `([^|`]*)` \|", text, re.MULTILINE))
    expected = {field.name.replace("_", "-"): str(field.default) for field in dataclasses.fields(Serve)[1:]}
    assert listed == expected


def test_the_defaults_are_those_of_the_library():
    from detseg.serve.limits import Limits

    config, limits = Serve(Path("run")), Limits()
    assert (config.max_megabytes * 1e6, config.max_megapixels * 1e6) == (limits.bytes, limits.pixels)
    assert (config.timeout, config.queue) == (limits.seconds, limits.waiting)
    config.check()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["run", "segmenter", "classifier", "localizer"])
def test_a_trained_model_answers_as_predict_does(task, request, small, tmp_path):
    """As a run, and exported where the engine is there: its answers in a browser's terms are the results of Python."""
    run = request.getfixturevalue(task).folder
    image = sorted((small / "images").iterdir())[0]
    models = [load(run, "auto")]
    if find_spec("onnxruntime") is not None:
        from detseg.exporters import export

        models.append(load(export(run, "onnx", tmp_path / "model.onnx"), "auto"))
    for model in models:
        client = client_of(model)
        client.app.state.service.warm_up()
        (expected,) = model.predict([str(image)])
        reply = client.post("/predict", content=image.read_bytes())
        assert reply.status_code == 200, reply.text
        found, about = reply.json(), client.get("/model").json()
        assert about["names"] == expected.names and found["task"] == about["task"]
        assert task != "run" or len(expected)  # the others find something anyway, or hardly learnt anything
        if "objects" in found:
            np.testing.assert_allclose([o["box"] for o in found["objects"]], expected.boxes, atol=0.02)
            np.testing.assert_allclose([o["score"] for o in found["objects"]], expected.scores, atol=1e-3)
            assert [o["label"] for o in found["objects"]] == expected.labels.tolist()
        elif "mask" in found:
            content = base64.b64decode(found["mask"].partition(",")[2])
            mask = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
            assert (mask == expected.mask).mean() > 0.999
        else:
            assert [c["label"] for c in found["classes"]] == expected.labels.tolist()
