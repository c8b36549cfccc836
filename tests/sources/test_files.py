"""What people name: images, folders, patterns, lists, videos, cameras, streams."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from detseg.sources.files import expand, is_video, name_of, read_list, title_of


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder to be in: photos/ with two images, a video, a text and a folder with one image."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.jpg", "photos/a.PNG", "photos/c.mp4", "photos/notes.md", "photos/deep/d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "images", "videos"),
    [
        ([], [], []),
        (["photos", "x.jpg"], ["photos", "x.jpg"], []),
        (["photos/*.jpg"], ["photos/b.jpg"], []),
        (["photos/*"], ["photos/a.PNG", "photos/b.jpg", "photos/deep"], ["photos/c.mp4"]),
        (["photos/**/*.jpg"], ["photos/b.jpg", "photos/deep/d.jpg"], []),
        (["photos/**"], ["photos/a.PNG", "photos/b.jpg", "photos/deep/d.jpg"], ["photos/c.mp4"]),
        (["photos/[ab].*", "photos/b.jpg"], ["photos/a.PNG", "photos/b.jpg"], []),
        (["0", "photos/c.mp4", "missing.MOV"], [], ["0", "photos/c.mp4", "missing.MOV"]),
        (["rtsp://u:p@cam/live", "http://cam/a.m3u8"], [], ["rtsp://u:p@cam/live", "http://cam/a.m3u8"]),
        (["https://web/a.jpg?x=*"], ["https://web/a.jpg?x=*"], []),
    ],
)
def test_sources_by_what_they_are(photos, sources, images, videos):
    assert expand(sources) == (tuple(images), tuple(videos))


def test_patterns_that_match_nothing_to_look_at(photos):
    with pytest.raises(ValueError, match=r"photos/\*.gif: matches no image, video or folder$"):
        expand(["photos/*.gif"])
    with pytest.raises(ValueError, match=r"photos/\*.md: matches no image, video or folder; 1 other files match"):
        expand(["photos/*.md"])


def test_a_file_whose_name_is_a_pattern(photos):
    (photos / "a[1].jpg").touch()
    (photos / "7").touch()
    assert expand(["a[1].jpg", "7"]).images == ("a[1].jpg", "7")


def test_lists_of_sources(photos):
    listed = photos / "photos/all.txt"
    listed.write_text("\ufeff# mine\nb.jpg\n\n  photos/a.PNG  \ndeep/*.jpg\nhttp://web/a.jpg\n0\nnone.jpg\n", "utf-8")
    near = str(photos / "photos")
    assert read_list(listed) == [
        f"{near}/b.jpg",
        "photos/a.PNG",
        f"{near}/deep/*.jpg",
        "http://web/a.jpg",
        "0",
        "none.jpg",
    ]
    found = expand(["photos/all.txt"])
    assert found.images == ("photos/b.jpg", "photos/a.PNG", "photos/deep/d.jpg", "http://web/a.jpg", "none.jpg")
    assert found.videos == ("0",)


def test_lists_that_are_none(photos):
    for content, message in (
        (b"# nothing\n", "names no source"),
        (b"\xff\xfe\x00", "a list of sources must be text in UTF-8"),
    ):
        (photos / "list.txt").write_bytes(content)
        with pytest.raises(ValueError, match=f"list.txt: {message}"):
            expand(["list.txt"])
    (photos / "other.txt").write_text("a.jpg")
    (photos / "list.txt").write_text("other.txt")
    with pytest.raises(ValueError, match=r"list.txt: names another list, other.txt"):
        expand(["list.txt"])
    assert expand(["missing.txt"]).images == ("missing.txt",), "reading it says what is wrong"


def test_a_line_that_is_no_name_is_told_with_its_list(tmp_path):
    (tmp_path / "all.txt").write_text("a.png " * 900)
    with pytest.raises(ValueError, match=r"all\.txt: .*File name too long"):
        expand([str(tmp_path / "all.txt")])


def test_a_server_is_asked_what_an_address_without_ending_is():
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg" if "photo" in self.path else "multipart/x-mixed-replace; b=x")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert is_video(f"{address}/cam") and not is_video(f"{address}/photo")
        assert not is_video(f"{address}/a.jpg") and is_video(f"{address}/a.mp4")
        assert asked == ["/cam", "/photo"]
    finally:
        server.shutdown()
        server.server_close()
    assert not is_video(address), "who opens it says what is wrong"


def test_names_and_titles_without_passwords():
    assert [name_of(s) for s in ("a/street.mp4", "0", "rtsp://me:secret@cam:554/", "http://cam/live%20a.mp4?k=1")] == [
        *("street", "camera-0", "cam", "live-20a")
    ]
    assert [title_of(s) for s in ("street.mp4", "0", "rtsp://me:secret@cam:554/x")] == [
        *("street.mp4", "camera 0", "rtsp://cam:554/x")
    ]
