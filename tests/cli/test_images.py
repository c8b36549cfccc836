"""Images on the command line: files, folders, web addresses."""

import json
import logging
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from detseg.cli import main
from detseg.cli.images import local_images
from tests.data.annotation_samples import write_picture


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    """A web server with two images; gives its address."""
    write_picture(tmp_path / "site/rose one.jpg", seed=1)
    write_picture(tmp_path / "site/tulip.png", seed=2)
    (tmp_path / "site/page.html").write_text("<html>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_files_folders_and_addresses(tmp_path, site):
    folder = tmp_path / "site"
    address = f"{site}/rose%20one.jpg?size=large#top"
    with local_images([str(folder), str(folder / "page.html"), address]) as found:
        paths = list(found)
        assert [path.name for path in paths] == ["rose one.jpg", "tulip.png", "page.html", "rose one.jpg"]
        assert paths[3].read_bytes() == (folder / "rose one.jpg").read_bytes() and found[paths[3]] == address
    assert not paths[3].exists(), "what was downloaded is removed"


def test_addresses_that_give_nothing(site):
    for address, message in (
        (f"{site}/none.jpg", "cannot be downloaded: .*not found"),
        ("http://127.0.0.1:9/a.jpg", "cannot be downloaded: .*refused"),
        ("http://[bad/a.jpg", "cannot be downloaded"),
        ("http://a b/c.jpg", "cannot be downloaded"),
    ):
        with pytest.raises(ValueError, match=message) as error, local_images([address]):
            pass
        assert str(error.value).startswith(address)


def test_predict_by_address(run, tmp_path, site, capsys):
    words = ["predict", str(run.folder), f"{site}/tulip.png", "--output", str(tmp_path / "out")]
    assert main([*words, "--score-threshold", "0"]) == 0
    assert capsys.readouterr().out.startswith(f"{site}/tulip.png: ")
    assert (tmp_path / "out/tulip.jpg").is_file()
    results = json.loads((tmp_path / "out/detections.json").read_text())
    assert {entry["file_name"] for entry in results} == {f"{site}/tulip.png"}
    assert main(["predict", str(run.folder), f"{site}/page.html", "--output", str(tmp_path / "none")]) == 1
    assert f"{site}/page.html: not a readable image" in capsys.readouterr().out


def test_images_of_folders_and_what_is_left_out(tmp_path, caplog):
    for name in ("b.jpg", "deep/a.jfif"):
        write_picture(tmp_path / "in" / name, **({"format": "jpeg"} if name.endswith("jfif") else {}))
    for name in ("c.svg", "d.svg", "notes.txt"):
        (tmp_path / "in" / name).touch()
    given = [str(tmp_path / "in"), str(tmp_path / "named.raw")]
    with caplog.at_level(logging.WARNING), local_images(given) as sources:
        found = list(sources)
    assert found == [tmp_path / "in/b.jpg", tmp_path / "in/deep/a.jfif", tmp_path / "named.raw"]
    (record,) = caplog.records
    first = tmp_path / "in/c.svg"
    assert record.getMessage() == f"2 .svg files are left out, the first is {first} (save them as JPEG or PNG)"
