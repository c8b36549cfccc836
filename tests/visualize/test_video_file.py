"""Drawn frames in a video, and what is drawn on them."""

import numpy as np
import pytest

from detseg.data.colours import class_color
from detseg.sources.video import Video
from detseg.visualize.tracks import draw_counts, draw_tracks
from detseg.visualize.video import VideoFile
from tests.sources.videos import frame, number_of


def test_frames_that_are_written_are_read_again(tmp_path):
    path = tmp_path / "deep/a.mp4"
    with VideoFile(path, 12.5) as file:
        for number in range(10):
            file.write(frame(number))
            assert not path.exists(), "whole or not at all"
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"] and file.written == 10
    with Video(path) as video:
        assert (video.fps, video.count, video.size) == (12.5, 10, (64, 48))
        assert [number_of(f.pixels) for f in video] == list(range(10))


def test_after_an_error_nothing_is_there_but_what_was_before(tmp_path):
    (tmp_path / "a.mp4").write_text("earlier")
    with pytest.raises(KeyboardInterrupt), VideoFile(tmp_path / "a.mp4", 10) as file:
        file.write(frame(0))
        raise KeyboardInterrupt
    with VideoFile(tmp_path / "b.mp4", 10):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"] and (tmp_path / "a.mp4").read_text() == "earlier"


def test_what_comes_irregularly_keeps_its_pace(tmp_path):
    with VideoFile(tmp_path / "a.mp4", 10) as file:
        for number, seconds in enumerate((5.0, 5.1, 5.13, 5.6)):
            file.write(frame(5 * number), seconds=seconds)
    shown = [number_of(f.pixels) // 5 for f in Video(tmp_path / "a.mp4")]
    assert shown == [0, 1, 3, 3, 3, 3, 3], "one as it comes, one too early, one that fills the gap before it"


@pytest.mark.parametrize("size", [(65, 49), (2, 2), (300, 33)])
def test_sizes(tmp_path, size):
    with VideoFile(tmp_path / "a.mp4", 10) as file:
        file.write(frame(3, size))
        file.write(frame(4, (40, 20)))
    frames = list(Video(tmp_path / "a.mp4"))
    assert [f.pixels.shape for f in frames] == [(size[1] // 2 * 2, size[0] // 2 * 2, 3)] * 2
    assert [number_of(f.pixels) for f in frames] == [3, 4]


def test_what_is_no_video_file(tmp_path):
    with pytest.raises(ValueError, match=r"a.avi: videos are written as .mp4"):
        VideoFile(tmp_path / "a.avi", 10)
    with pytest.raises(ValueError, match="above 0 and at most 1000, not 0"):
        VideoFile(tmp_path / "a.mp4", 0)
    with pytest.raises(ValueError, match="1x5 pixels are too small"), VideoFile(tmp_path / "a.mp4", 9) as file:
        file.write(frame(0, (1, 5)))
    with pytest.raises(ValueError, match="must be a uint8 array"), VideoFile(tmp_path / "a.mp4", 9) as file:
        file.write(np.zeros((4, 4)))


def test_the_colour_of_an_object_is_that_of_its_number():
    image = frame(0, (200, 120))
    boxes = [[10, 40, 40, 70], [60, 40, 90, 70], [110, 40, 140, 70]]
    drawn = draw_tracks(image, boxes, [1, 1, 0], ["rose", "tulip"], [0.9, 0.8, 0.7], [5, -1, 12])
    for (x, y, _, _), color in zip(boxes, (class_color(5), class_color(1), class_color(12)), strict=True):
        assert tuple(drawn[y + 15, x]) == color
    assert (image == frame(0, (200, 120))).all()
    assert (draw_tracks(image, [], [], ["rose"], [], []) == image).all()


def test_lines_and_zones_with_their_texts():
    image = np.full((100, 160, 3), 128, np.uint8)
    line, zone = np.array([[20, 50], [140, 50]]), np.array([[100, 10], [150, 10], [150, 40]])
    drawn = draw_counts(image, [(line, "line 1: 3 down"), (zone, "zone 1: 2 now")])
    changed = (drawn != image).any(-1)
    assert drawn[50, 130].min() > 200 and changed[10, 140] and changed[25, 150]
    assert changed[52:70, 20:60].mean() > 0.5 and not changed[80:].any()
    outside = draw_counts(
        image, [(np.array([[-1e9, 50], [1e9, 50]]), "far"), (np.array([[500, 500], [600, 600]]), "out")]
    )
    assert outside.shape == image.shape and outside[50, 80].min() > 200
    once, twice, other = (draw_counts(image, [(zone, text) for text in texts]) for texts in ("a", "aa", "ab"))
    assert (twice != once).any() and (other != twice).any(), "each text is seen"
    assert draw_counts(image, [(zone, str(number)) for number in range(30)]).shape == image.shape
    assert (draw_counts(image, []) == image).all() and draw_counts(image, []) is not image
