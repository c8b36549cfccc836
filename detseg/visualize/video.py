"""Drawn frames written as a video, whole or not at all."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2

from detseg.files import WriteError, for_libraries, replacing, require_room
from detseg.visualize.text import Image, checked_image

CODEC = "mp4v"  # MPEG-4, which OpenCV brings everywhere; H.264 depends on what a machine has
FASTEST = 1000.0  # frames per second
OFTEN = 16  # frames after which it is looked at whether there is room for more


class VideoFile:
    """An .mp4 file that frames are written to; it is at `path` when the block ends well.

    Args:
        path: of the file; folders on the way are made.
        fps: frames per second.

    Attributes:
        written: frames so far.

    Raises:
        ValueError: another ending, or no such `fps`.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path, self.fps, self.written = Path(path), float(fps), 0
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"{path}: videos are written as .mp4")
        if not 0 < fps <= FASTEST:
            raise ValueError(f"{path}: frames per second must be above 0 and at most {FASTEST:.0f}, not {fps}")
        self._file: Any = None
        self._place = ExitStack()  # where it is written till it is whole
        self._name, self._size = "", (0, 0)
        self._begun: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        self._file.release()
        with self._place:  # which removes what was written, or gives it its name
            if error is not None:
                raise error
            if not cv2.VideoCapture(self._name).isOpened():  # OpenCV does not tell what fails
                raise WriteError(f"{self.path}: cannot be written: no whole video has become of it; is the disk full?")

    def write(self, image: Image, *, seconds: float | None = None) -> None:
        """Add a frame (H, W, 3) RGB.

        Frames of another size than the first are fitted to that. Raises OSError where no video can be written.

        Args:
            seconds: when it was seen: it is repeated, or left out, so that the video keeps the pace of what was seen
                irregularly; by default each frame is there once.
        """
        times = 1
        if seconds is not None:
            self._begun = seconds if self._begun is None else self._begun
            times = 1 + round((seconds - self._begun) * self.fps) - self.written
        if times < 1:
            return
        frame = cv2.cvtColor(checked_image(image), cv2.COLOR_RGB2BGR)
        if self._file is None:
            self._open((frame.shape[1], frame.shape[0]))
        if frame.shape[1::-1] != self._size:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        for _ in range(times):
            if not self.written % OFTEN:  # OpenCV writes on to a full disk without a word
                require_room(self.path)
            self._file.write(frame)
            self.written += 1

    def _open(self, size: tuple[int, int]) -> None:
        # The codec halves the colours' resolution, and OpenCV leaves out an odd column or row by itself.
        if min(size) < 2:
            raise ValueError(f"{self.path}: frames of {size[0]}x{size[1]} pixels are too small for a video")
        # OpenCV chooses the kind of file by its ending.
        temporary = self._place.enter_context(replacing(self.path, ending=".mp4"))
        self._name = self._place.enter_context(for_libraries(temporary))
        code = cv2.VideoWriter.fourcc(*CODEC)
        self._file, self._size = cv2.VideoWriter(self._name, code, self.fps, size), size
        if not self._file.isOpened():
            raise WriteError(f"{self.path}: cannot be written; does OpenCV have {CODEC}?")
