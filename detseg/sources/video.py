"""Videos, cameras and streams as frames, which a thread reads ahead of who looks at them.

with Video("street.mp4") as video:
    for frame in video:
        ...
"""

import math
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from threading import Condition, Thread
from typing import Any, Generic, NamedTuple, Self, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from detseg.files import for_libraries
from detseg.reading import require_file
from detseg.sources.files import is_camera, is_stream, title_of

T = TypeVar("T")

WAITING = 8  # frames that are read ahead of a file
RATE = 30.0  # frames per second where nothing says how many
# The thread that reads a camera may wait for it for ever; nobody waits for that thread longer.
PATIENCE = 2.0  # seconds


class Frame(NamedTuple):
    """A frame of a video."""

    number: int  # from 0; frames that are left out are counted
    seconds: float  # since the beginning
    pixels: NDArray[np.uint8]  # (H, W, 3) RGB


class Video:
    """The frames of a video file, of a camera by its number, or of a stream by its address.

    Frames come one after another, as often as they are iterated over; a few are read ahead. Of what is live, the newest
    frame is taken, and those that came meanwhile are dropped: it never falls behind. Of a file no frame is dropped.

    Args:
        source: a path, a camera's number (``0`` or ``"0"``), or an address (rtsp, http, …).
        every: look at every so-many-th frame only.
        live: whether frames may be dropped; by default for cameras, and streams without an end.

    Attributes:
        title: what to call it in messages.
        fps: frames per second, before `every`.
        size: width and height that the file has in mind, pixels.
        count: frames that the file says it has; None where that is not known.
        live: see above.
        read, dropped: frames that were read so far, and of these dropped for being late.

    Raises:
        ValueError: there is no such file or camera, or it is no video that can be read; the message names it.
    """

    def __init__(self, source: str | Path | int, *, every: int = 1, live: bool | None = None) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        self.source, self.every = str(source), every
        self.camera = isinstance(source, int) or is_camera(self.source)
        self.title = f"camera {self.source}" if self.camera else title_of(self.source)
        self._capture: Any = self._open()
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else RATE
        self.size = tuple(int(self._capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        known = not self.camera and math.isfinite(count) and 0 < count < 2**40
        self.count = int(count) if known else None
        self.live = (self.camera or (is_stream(self.source) and not known)) if live is None else live
        self.read = self.dropped = 0

    def _open(self) -> Any:
        """A capture that has been opened; see the class for what is raised."""
        if not self.camera and not is_stream(self.source):
            if Path(self.source).is_dir():
                raise ValueError(f"{self.title}: is a folder, not a video")
            if not Path(self.source).exists():
                raise ValueError(f"{self.title}: there is no such video")
        # What FFmpeg prints of a damaged file names no file; asked for when its first video is opened.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        if self.camera or is_stream(self.source):
            capture = cv2.VideoCapture(int(self.source) if self.camera else self.source)
        else:
            with for_libraries(require_file(self.source)) as name:
                capture = cv2.VideoCapture(name)
        if capture.isOpened():
            return capture
        capture.release()
        if self.camera:
            raise ValueError(f"{self.title}: cannot be opened; is it there, and used by no other program?")
        if is_stream(self.source):
            raise ValueError(f"{self.title}: no video stream can be opened there; is the address right?")
        raise ValueError(f"{self.title}: not a readable video; is it damaged, or cut short?")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file or camera; a loop over its frames lets go of it by itself."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def __iter__(self) -> Iterator[Frame]:
        capture, self._capture = self._capture or self._open(), None
        self.read = self.dropped = 0
        waiting: Waiting[Frame] = Waiting(1 if self.live else WAITING, drops=self.live)

        def read() -> None:
            try:
                for frame in self._frames(capture):
                    if not waiting.put(frame):
                        break
                waiting.end()
            except Exception as error:
                waiting.end(error)
            finally:
                capture.release()  # here, where nothing else uses it

        thread = Thread(target=read, daemon=True)
        thread.start()
        try:
            for frame in waiting:
                self.dropped = waiting.dropped
                yield frame
        finally:
            waiting.stop()
            self.dropped = waiting.dropped
            thread.join(PATIENCE if self.live else None)
        if not self.read:
            raise ValueError(f"{self.title}: no frame of it can be read; is it damaged?")

    def _frames(self, capture: Any) -> Iterator[Frame]:
        started, seconds = time.monotonic(), 0.0
        while capture.grab():  # without decoding what is left out
            index, self.read = self.read, self.read + 1
            if self.live:
                seconds = time.monotonic() - started
            else:
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                # Some files have no times, some begin anew.
                seconds = stamp if math.isfinite(stamp) and (stamp > seconds or not index) else index / self.fps
            if index % self.every == 0:
                good, pixels = capture.retrieve()
                if good:
                    yield Frame(index, max(0.0, seconds), cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


class Waiting(Generic[T]):
    """What one thread puts and another takes, in order, until it ends.

    Args:
        most: items that wait at a time.
        drops: whether the oldest makes room for a new one; else who puts waits until there is room.

    Attributes:
        dropped: items that made room.
    """

    def __init__(self, most: int, *, drops: bool) -> None:
        self.most, self.drops, self.dropped = most, drops, 0
        self._items: deque[T] = deque()
        self._changed = Condition()
        self._ended = self._stopped = False
        self._error: Exception | None = None

    def put(self, item: T) -> bool:
        """Add an item; False if nobody wants more."""
        with self._changed:
            while len(self._items) >= self.most and not self.drops and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return False
            if len(self._items) >= self.most:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    def end(self, error: Exception | None = None) -> None:
        """No more will come; an error is raised where the next would be taken."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody takes more."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._items and not self._ended:
                    self._changed.wait(0.5)  # not for ever: on some systems Ctrl-C waits too
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
