"""Frames of videos and of what is live."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from detseg.sources.video import RATE, Video, Waiting
from tests.sources.videos import frame, number_of, write_video


def test_all_frames_in_order_with_their_times(tmp_path):
    path = write_video(tmp_path / "a.avi", count=20, fps=10)
    with Video(path) as video:
        assert (video.fps, video.size, video.count, video.live) == (10, (64, 48), 20, False)
        frames = list(video)
        again = list(video)
    assert [f.number for f in frames] == [number_of(f.pixels) for f in frames] == list(range(20))
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(20) / 10, atol=1e-6)
    assert {f.pixels.shape for f in frames} == {(48, 64, 3)} and frames[0].pixels.dtype == np.uint8
    assert (video.read, video.dropped, len(again)) == (20, 0, 20)


def test_colours_are_red_green_blue(tmp_path):
    file = cv2.VideoWriter(str(tmp_path / "red.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 32))
    file.write(np.full((32, 32, 3), (0, 0, 255), np.uint8))
    file.release()
    (only,) = Video(tmp_path / "red.mp4")
    assert only.pixels.mean((0, 1)).round(-2).tolist() == [300, 0, 0]


@pytest.mark.parametrize("every", [1, 3, 20, 21])
def test_every_so_many_th_frame(tmp_path, every):
    path = write_video(tmp_path / "a.avi", count=20, fps=10)
    frames = list(Video(path, every=every))
    assert [f.number for f in frames] == [number_of(f.pixels) for f in frames] == list(range(0, 20, every))
    np.testing.assert_allclose([f.seconds for f in frames], np.arange(0, 20, every) / 10, atol=1e-6)


def test_a_file_drops_no_frame_however_late_its_reader(tmp_path):
    path = write_video(tmp_path / "a.avi", count=30)
    video = Video(path)
    seen = []
    for one in video:
        seen.append(one.number)
        time.sleep(0.005)
    assert seen == list(range(30)) and video.dropped == 0


def test_what_is_live_drops_frames_and_gives_the_newest(tmp_path):
    path = write_video(tmp_path / "a.avi", count=200)
    video = Video(path, live=True)
    seen = []
    for one in video:
        seen.append(one.number)
        time.sleep(0.02)
    assert seen == sorted(set(seen)) and seen[-1] == 199
    assert video.dropped == 200 - len(seen) > 0
    assert video.read == 200


def test_leaving_a_loop_early_ends_its_thread(tmp_path):
    path = write_video(tmp_path / "a.avi", count=200)
    before = threading.active_count()
    for live in (False, True):
        for one in Video(path, live=live):
            assert one.number >= 0
            break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "empty.mp4").touch()
    whole = write_video(tmp_path / "whole.mp4", code="mp4v").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("text.mp4", "not a readable video; is it damaged, or cut short"),
        ("empty.mp4", "not a readable video"),
        ("cut.mp4", "not a readable video"),
        ("none.mp4", "there is no such video"),
        (".", "is a folder, not a video"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            Video(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
    with pytest.raises(ValueError, match="camera 97: cannot be opened"):
        Video(97)
    with pytest.raises(ValueError, match=r"rtsp://127.0.0.1:9/x: no video stream can be opened there"):
        Video("rtsp://me:secret@127.0.0.1:9/x")
    with pytest.raises(ValueError, match="every must be at least 1, not 0"):
        Video(tmp_path / "whole.mp4", every=0)


def test_a_stream_of_a_camera_on_the_web():
    """One JPEG after another, as most cameras send them; nobody knows how many."""
    images = [cv2.imencode(".jpg", frame(number))[1].tobytes() for number in range(12)]

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for image in images:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n".encode()
                self.wfile.write(head + image + b"\r\n")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Video(f"http://127.0.0.1:{server.server_address[1]}/cam") as video:
            assert video.live and video.count is None and 0 < video.fps <= 1000
            frames = list(video)
        assert [number_of(f.pixels) for f in frames] == [f.number for f in frames]
        assert len(frames) + video.dropped == video.read
        assert video.read >= 10, "the demuxer may keep the last ones"
        assert [f.seconds for f in frames] == sorted(f.seconds for f in frames)
    finally:
        server.shutdown()
        server.server_close()


def test_waiting_keeps_at_most_so_many_and_hands_on_errors():
    waiting = Waiting(2, drops=True)
    for number in range(5):
        assert waiting.put(number)
    waiting.end(OSError("gone"))
    taken = []
    with pytest.raises(OSError, match="gone"):
        taken.extend(waiting)
    assert taken == [3, 4] and waiting.dropped == 3
    waiting.stop()
    assert not waiting.put(9)


def test_a_rate_that_no_video_has_is_not_believed(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi")
    get = cv2.VideoCapture.get

    class Capture:
        def __init__(self, source):
            self.capture = cv2.VideoCapture(source)

        def __getattr__(self, name):
            return getattr(self.capture, name)

        def get(self, what):
            odd = {cv2.CAP_PROP_FPS: 90000.0, cv2.CAP_PROP_POS_MSEC: 0.0, cv2.CAP_PROP_FRAME_COUNT: -1e18}
            return odd[what] if what in odd else get(self.capture, what)

    monkeypatch.setattr("detseg.sources.video.cv2", Shadow(cv2, VideoCapture=Capture))
    video = Video(path)
    assert (video.fps, video.count, video.live) == (RATE, None, False)
    np.testing.assert_allclose([f.seconds for f in video], np.arange(20) / RATE)


class Shadow:
    """A module with some of its names replaced."""

    def __init__(self, module, **names):
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    import tracemalloc

    path = write_video(tmp_path / "long.avi", count=3000, size=(160, 120))
    tracemalloc.start()
    try:
        for one in Video(path):
            if one.number == 500:
                tracemalloc.reset_peak()
        assert one.number == 2999
        assert tracemalloc.get_traced_memory()[1] < 40 * one.pixels.nbytes
    finally:
        tracemalloc.stop()
