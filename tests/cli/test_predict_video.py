"""`detseg predict` of videos: tables, a drawn video, followed and counted objects."""

import csv
import json
import os
import re
import signal
import threading
import time
import tracemalloc
from itertools import pairwise

import cv2
import numpy as np
import pytest

from detseg.cli import main
from detseg.cli.predict import Predict
from detseg.cli.predict_video import predict_videos
from detseg.cli.terminal import Terminal
from detseg.results import Results
from detseg.sources.video import Video
from detseg.visualize.video import VideoFile
from tests.sources.videos import write_video
from tests.tracks.scenes import Disc

COLOURS = ((230, 40, 40), (40, 40, 230))  # rose, iris
SIZE = (240, 160)
FLOWERS = [
    Disc(0, 14, (20, 60), (4, 0)),  # to the right, through the upright line and behind the next
    Disc(1, 16, (120, -20), (0, 3)),  # down through the level line
    Disc(0, 12, (225, 130), (-3, 0)),  # to the left, through the upright line
    Disc(1, 9, (30, 125), (0, 0)),  # at rest, in the zone
]


def draw(path, discs=FLOWERS, count=50, fps=25):
    """A video of discs on a grey ground."""
    with VideoFile(path, fps) as file:
        for number in range(count):
            image = np.full((SIZE[1], SIZE[0], 3), 90, np.uint8)
            for disc in discs:
                centre = tuple(np.rint(disc.place(number)).astype(int).tolist())
                cv2.circle(image, centre, disc.radius, COLOURS[disc.label], -1)
            file.write(image)
    return path


class ColourDetector:
    """Finds what is red or blue: as a model that predicts, exported or not."""

    task, channels, max_detections, finds_masks = "detect", 3, 100, False
    categories = ((7, "rose"), (3, "iris"))
    names = ("rose", "iris")

    def __init__(self):
        self.asked = []

    def stream(self, images, *, score_threshold=0.3):
        self.asked.append((len(images), score_threshold))
        return (self.find(image) for image in images)

    def find(self, image):
        found = []
        for label, colour in enumerate(COLOURS):
            near = (np.abs(image.astype(int) - colour).max(-1) < 70).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(near)
            for x, y, w, h, area in stats[1:].tolist():
                if area >= 30:  # half hidden ones are not round
                    found.append(
                        ([x, y, x + w, y + h], min(0.99, 1.2 * area / (w * h)) if min(w, h) > 12 else 0.2, label)
                    )
        found.sort(key=lambda one: -one[1])
        boxes, scores, labels = zip(*found, strict=True) if found else ((), (), ())
        arrays = {
            "boxes": np.array(boxes, np.float32).reshape(-1, 4),
            "scores": np.array(scores, np.float32),
            "labels": np.array(labels, np.int64),
        }
        return Results(arrays, image, self.categories)


def predict(videos, output, model=None, **options):
    model = model or ColourDetector()
    predict_videos(model, [str(v) for v in videos], Predict(run=output, output=output, **options), Terminal())
    return model


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(path):
    return list(csv.DictReader(path.open(newline="")))


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("video") / "flowers.mp4")


def test_what_is_in_each_frame(flowers, tmp_path, capsys):
    model = predict([flowers], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["flowers.csv", "flowers.jsonl"]
    lines = lines_of(tmp_path / "out/flowers.jsonl")
    assert [line["frame"] for line in lines] == list(range(50))
    assert [line["seconds"] for line in lines] == [round(i / 25, 3) for i in range(50)]
    assert {tuple(line) for line in lines} == {("frame", "seconds", "objects")}
    roses = sorted(o["box"] for o in lines[0]["objects"] if o["name"] == "rose")
    np.testing.assert_allclose(roses, [FLOWERS[0].box(0), FLOWERS[2].box(0)], atol=2)
    rows = rows_of(tmp_path / "out/flowers.csv")
    objects = [(line, o) for line in lines for o in line["objects"]]
    assert len(rows) == len(objects) > 100
    for row, (line, o) in zip(rows, objects, strict=True):
        assert (int(row["frame"]), float(row["seconds"]), row["class"]) == (line["frame"], line["seconds"], o["name"])
        assert [float(row[k]) for k in ("x1", "y1", "x2", "y2")] == o["box"] and float(row["score"]) == o["score"]
        assert row["track"] == "" and "track" not in o
    assert model.asked == [(8, 0.3)] * 6 + [(2, 0.3)]
    printed = capsys.readouterr().out
    assert printed.startswith(f"{flowers}: 50 images, ") and "dropped" not in printed
    assert printed.endswith(f"; written to {tmp_path}/out/flowers.jsonl, {tmp_path}/out/flowers.csv\n")


def test_numbers_do_not_change_and_counts_are_exact(flowers, tmp_path, capsys):
    counts = ("line=0,90,240,90", "line=100,160,100,0", "zone=0,100,60,100,60,150,0,150")
    predict([flowers], tmp_path, count=counts, save_video=True)
    lines = lines_of(tmp_path / "flowers.jsonl")
    ways = {}
    for line in lines:
        for o in line["objects"]:
            if "track" in o:
                ways.setdefault(o["track"], []).append((o["name"], (o["box"][0] + o["box"][2]) / 2, line["frame"]))
    assert len(ways) == 4
    assert sorted({name for name, *_ in way}.pop() for way in ways.values()) == ["iris", "iris", "rose", "rose"]
    for way in ways.values():
        assert len({name for name, *_ in way}) == 1
        steps = [(b[1] - a[1]) / (b[2] - a[2]) for a, b in pairwise(way)]
        assert max(map(abs, steps)) < 14, "no leap to another one"
    assert sum(map(len, ways.values())) > 130
    assert (tmp_path / "flowers-counts.csv").read_text().splitlines() == [
        "count,class,what,number",
        "line 1,iris,down,1",
        "line 1,iris,up,0",
        "line 2,rose,right,1",
        "line 2,rose,left,1",
        "zone 1,iris,now,1",
        "zone 1,iris,most,1",
        "zone 1,iris,distinct,1",
    ]
    assert lines[-1]["counts"]["line 1"] == {"iris": {"down": 1, "up": 0}}
    assert lines[0]["counts"]["line 1"] == {} and lines[0]["counts"]["zone 1"]["iris"]["now"] == 1
    printed = capsys.readouterr().out
    assert "; 4 objects followed; line 1: 1 down, 0 up; line 2: 1 right, 1 left; zone 1: 1 now, 1 distinct;" in printed
    with Video(tmp_path / "flowers.mp4") as video:
        assert (video.count, video.fps, video.size) == (50, 25, SIZE)
        last = list(video)[-1].pixels
    assert last[90, 200:230].min(-1).mean() > 150, "the line is drawn"


def test_less_sure_detections_are_asked_for_only_to_follow(flowers, tmp_path):
    assert {s for _, s in predict([flowers], tmp_path / "a", score_threshold=0.6).asked} == {0.6}
    model = predict([flowers], tmp_path / "b", score_threshold=0.6, track=True)
    assert {round(s, 6) for _, s in model.asked} == {0.2}
    for line in lines_of(tmp_path / "b/flowers.jsonl"):
        assert all(o["score"] >= 0.6 or "track" in o for o in line["objects"])


def test_every_so_many_th_frame_and_a_drawn_video_as_long(flowers, tmp_path):
    predict([flowers], tmp_path, every=4, save_video=True, track=True)
    assert [line["frame"] for line in lines_of(tmp_path / "flowers.jsonl")] == list(range(0, 50, 4))
    with Video(tmp_path / "flowers.mp4") as video:
        assert (video.count, video.fps) == (13, 6.25)
    numbers = {o.get("track") for line in lines_of(tmp_path / "flowers.jsonl") for o in line["objects"]}
    assert numbers - {None} == {1, 2, 3, 4}


def test_nothing_in_it(tmp_path):
    draw(tmp_path / "empty.mp4", [], 3)
    predict([tmp_path / "empty.mp4"], tmp_path / "out", count=("line=0,1,2,3",), save_video=True)
    assert [line["objects"] for line in lines_of(tmp_path / "out/empty.jsonl")] == [[]] * 3
    assert (tmp_path / "out/empty.csv").read_text() == "frame,seconds,class,score,x1,y1,x2,y2,track\n"
    assert (tmp_path / "out/empty-counts.csv").read_text() == "count,class,what,number\n"


def test_several_videos_and_one_that_is_none(flowers, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    other = draw(tmp_path / "deep/flowers.mp4", count=3)
    with pytest.raises(
        ValueError, match=r"1 of 3 videos cannot be read and were left out; the first: .*broken.mp4: not"
    ):
        predict([flowers, tmp_path / "broken.mp4", other], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("flowers-2.csv", "flowers-2.jsonl", "flowers.csv", "flowers.jsonl")
    ]
    assert (
        f"{tmp_path}/broken.mp4: not a readable video; is it damaged, or cut short?; left out"
        in capsys.readouterr().out
    )


def test_no_foreign_file_is_overwritten(flowers, tmp_path):
    predict([flowers], tmp_path, save_video=True)
    predict([flowers], tmp_path, save_video=True)  # its own are
    (tmp_path / "flowers.jsonl").write_text("mine")
    with pytest.raises(ValueError, match=r"flowers.jsonl: is there already, and not from an earlier prediction"):
        predict([flowers], tmp_path)
    with pytest.raises(ValueError, match=r"flowers.mp4 would be overwritten by a drawing; give another --output"):
        predict([flowers], flowers.parent)


def test_some_classes_only(flowers, tmp_path):
    predict([flowers], tmp_path, classes=("iris",), count=("line=0,90,240,90", "line=100,160,100,0"))
    assert {o["name"] for line in lines_of(tmp_path / "flowers.jsonl") for o in line["objects"]} == {"iris"}
    assert {row["class"] for row in rows_of(tmp_path / "flowers-counts.csv")} == {"iris"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "--every must be at least 1, not 0"),
        ({"polygons": True, "boxes": True}, "--polygons, --boxes: is for images, not for videos"),
        ({"save_crops": True}, "--save-crops: is for images, not for videos"),
        ({"count": ("line=1",)}, "line=1: write line=x1,y1,x2,y2 or zone="),
    ],
)
def test_options_that_mean_nothing(flowers, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        predict([flowers], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_models_that_look_at_other_channels(flowers, tmp_path):
    class Grey(ColourDetector):
        channels = 1

        def find(self, image):
            assert image.shape == (160, 240, 1)
            return super().find(np.repeat(image, 3, 2))

    predict([flowers], tmp_path, Grey(), save_video=True, every=10)
    assert len(lines_of(tmp_path / "flowers.jsonl")) == 5
    Grey.channels = 5
    with pytest.raises(ValueError, match="looks at 5 channels, and videos have three"):
        predict([flowers], tmp_path, Grey())


def test_what_is_live_is_looked_at_one_by_one_until_ctrl_c(flowers, tmp_path, capsys, monkeypatch, request):
    class Slow(ColourDetector):
        def stream(self, images, **options):
            if len(self.asked) == 5:
                signal.raise_signal(signal.SIGINT)
            return super().stream(images, **options)

    class Camera(Video):
        def __init__(self, source, **options):
            super().__init__(flowers, live=True, **options)

        def _frames(self, capture):
            for frame in super()._frames(capture):
                time.sleep(0.03)
                yield frame

    monkeypatch.setattr("detseg.cli.predict_video.Video", Camera)
    # Of a shell's background job, it is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    model = predict(["0"], tmp_path, Slow(), save_video=True, track=True)
    assert {number for number, _ in model.asked} == {1}
    lines = lines_of(tmp_path / "camera-0.jsonl")
    assert 4 <= len(lines) <= 5 and (tmp_path / "camera-0.mp4").is_file()
    assert capsys.readouterr().out.startswith("camera 0: ") and threading.active_count() < 10


def test_after_ctrl_c_in_a_file_nothing_half_is_left(flowers, tmp_path):
    class Stopped(ColourDetector):
        def find(self, image):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict([flowers], tmp_path, Stopped(), save_video=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_by_the_command(run, small, tmp_path, capsys):
    images = sorted((small / "images").glob("val*.png"))
    with VideoFile(tmp_path / "a.mp4", 10) as file:
        for image in images:
            file.write(cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB))
    out = tmp_path / "out"
    words = ["--output", str(out), "--score-threshold", "0.05", "--save-video", "--count", "line=48,0,48,72"]
    assert main(["predict", str(run.folder), str(tmp_path / "*.mp4"), *words]) == 0
    lines = lines_of(out / "a.jsonl")
    assert len(lines) == len(images) and any(line["objects"] for line in lines)
    assert sorted(p.name for p in out.iterdir()) == ["a-counts.csv", "a.csv", "a.jsonl", "a.mp4"]
    capsys.readouterr()
    single = str(images[0])
    for words, message in (
        ([single, "--track"], "--track: is for videos; name one, or leave it out"),
        ([single, str(tmp_path / "a.mp4")], "is a video, .* is not: predict images and videos one after the other"),
        ([str(tmp_path / "none.mp4")], "none.mp4: there is no such video"),
        ([str(tmp_path / "*.gif")], "matches no image, video or folder"),
    ):
        assert main(["predict", str(run.folder), *words, "--output", str(out)]) == 1
        assert re.search(message, capsys.readouterr().err), message


def test_folders_without_those_below_and_lists(run, small, tmp_path, capsys):
    for name in ("in/a.png", "in/deep/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.link(small / "images/val0.png", tmp_path / name)
    (tmp_path / "list.txt").write_text("in\n")
    for number, words in enumerate((["in"], ["in", "--no-recursive"], ["list.txt", "--no-recursive"])):
        out = tmp_path / f"out{number}"
        source = [str(tmp_path / words[0]), *words[1:]]
        assert main(["predict", str(run.folder), *source, "--output", str(out)]) == 0
        names = {path.name for path in out.glob("*.jpg")}
        assert names == ({"a.jpg", "b.jpg"} if number == 0 else {"a.jpg"})


def test_a_segmenter(segmenter, masked, tmp_path, capsys):
    images = sorted((masked / "images").glob("*.png")) or sorted((masked / "images").iterdir())
    with VideoFile(tmp_path / "a.mp4", 10) as file:
        for image in images[:5]:
            file.write(cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB))
    words = ["predict", str(segmenter.folder), str(tmp_path / "a.mp4"), "--output", str(tmp_path / "out")]
    assert main([*words, "--save-video", "--flip"]) == 0
    lines = lines_of(tmp_path / "out/a.jsonl")
    assert len(lines) == 5 and all(sum(line["shares"].values()) == pytest.approx(1, abs=1e-3) for line in lines)
    rows = rows_of(tmp_path / "out/a.csv")
    assert [(row["class"], float(row["share"])) for row in rows if row["frame"] == "0"] == list(
        lines[0]["shares"].items()
    )
    with Video(tmp_path / "out/a.mp4") as video:
        assert video.count == 5
    capsys.readouterr()
    assert main([*words, "--track"]) == 1
    assert "is no detector, and only those follow and count objects; leave out --track" in capsys.readouterr().err


def test_a_classifier(classifier, tmp_path):
    write_video(tmp_path / "a.avi", 4)
    words = ["predict", str(classifier.folder), str(tmp_path / "a.avi"), "--output", str(tmp_path / "out")]
    assert main([*words, "--save-video", "--every", "2"]) == 0
    lines = lines_of(tmp_path / "out/a.jsonl")
    assert [line["frame"] for line in lines] == [0, 2]
    rows = [row for row in rows_of(tmp_path / "out/a.csv") if row["frame"] == "2"]
    assert [row["rank"] for row in rows] == [str(i + 1) for i in range(len(rows))]
    assert {row["class"]: float(row["score"]) for row in rows} == lines[1]["classes"]


@pytest.mark.slow
def test_an_exported_model(run, small, tmp_path):
    pytest.importorskip("onnxruntime")
    from detseg.export import export

    with VideoFile(tmp_path / "a.mp4", 10) as file:
        for image in sorted((small / "images").glob("val*.png")):
            file.write(cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB))
    model = export(run.folder, "onnx", tmp_path / "model.onnx")
    for number, what in enumerate((run.folder, model)):
        words = ["--output", str(tmp_path / f"out{number}"), "--score-threshold", "0.05", "--track"]
        assert main(["predict", str(what), str(tmp_path / "a.mp4"), *words]) == 0
    by_run, by_file = (lines_of(tmp_path / f"out{number}/a.jsonl") for number in range(2))
    for one, other in zip(by_run, by_file, strict=True):
        assert [o["name"] for o in one["objects"]] == [o["name"] for o in other["objects"]]
        for a, b in zip(one["objects"], other["objects"], strict=True):
            np.testing.assert_allclose(a["box"], b["box"], atol=0.5)


@pytest.mark.slow
def test_memory_stays_flat_over_thousands_of_frames(tmp_path):
    path = draw(tmp_path / "long.mp4", FLOWERS[3:], 3000)
    peaks = []

    class Watched(ColourDetector):
        def stream(self, images, **options):
            if len(self.asked) in (60, 200, 340):
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
            return super().stream(images, **options)

        def find(self, image):  # quickly
            arrays = {
                "boxes": np.array([[20, 110, 40, 130]], np.float32),
                "scores": np.array([0.9], np.float32),
                "labels": np.array([1]),
            }
            return Results(arrays, image, self.categories)

    tracemalloc.start()
    try:
        predict([path], tmp_path / "out", Watched(), count=("line=0,90,240,90",), save_video=True)
    finally:
        tracemalloc.stop()
    assert len(lines_of(tmp_path / "out/long.jsonl")) == 3000
    assert peaks[2] < peaks[1] * 1.1 + 2**20
