"""Drawn frames written as a video, whole or not at all."""

from pathlib import Path
from typing import Any, Self

import cv2

from detseg.visualize.text import Image, checked_image

CODEC = "mp4v"  # MPEG-4, which OpenCV brings everywhere; H.264 depends on what a machine has
FASTEST = 1000.0  # frames per second


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
        self._size = (0, 0)
        self._begun: float | None = None

    @property
    def _temporary(self) -> Path:
        # OpenCV chooses the kind of file by its ending.
        return self.path.with_name(f".{self.path.stem[:100]}.part.mp4")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None:
            return
        self._file.release()
        if kind is None:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink(missing_ok=True)

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
            self._file.write(frame)
        self.written += times

    def _open(self, size: tuple[int, int]) -> None:
        # The codec halves the colours' resolution, and OpenCV leaves out an odd column or row by itself.
        if min(size) < 2:
            raise ValueError(f"{self.path}: frames of {size[0]}x{size[1]} pixels are too small for a video")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        code = cv2.VideoWriter.fourcc(*CODEC)
        self._file, self._size = cv2.VideoWriter(str(self._temporary), code, self.fps, size), size
        if not self._file.isOpened():
            raise OSError(f"{self.path}: cannot be written; is the folder writable, and does OpenCV have {CODEC}?")
