"""What people name to look at: images, folders, patterns, lists of sources, videos, cameras, streams."""

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from detseg.reading import FileError, content_of, reading

VIDEO_EXTENSIONS = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts", ".3gp",
    ".ogv",
)  # fmt: skip
PLAYLISTS = (".m3u8", ".mpd", ".mjpg", ".mjpeg")  # what addresses of streams end with
STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt")
MEDIA = ("video/", "multipart/x-mixed-replace", "application/vnd.apple.mpegurl", "application/x-mpegurl")
"""What servers call what they send, where it is a video or the images of a camera one after another."""
LISTS = ".txt"
PATIENCE = 10  # seconds without an answer


class Sources(NamedTuple):
    """Sources by what they are, each in the order in which they were named."""

    images: tuple[str, ...]  # files, folders, web addresses
    videos: tuple[str, ...]  # files, addresses, numbers of cameras


def expand(sources: Sequence[str]) -> Sources:
    """Sources with patterns and lists replaced by what they name.

    Raises:
        ValueError: a pattern that no image, video or folder has; a list that names nothing, is no text, or names
            another list.
    """
    images: dict[str, None] = {}  # a source that is named twice is looked at once
    videos: dict[str, None] = {}
    for source in _named(sources):
        (videos if is_video(source) else images)[source] = None
    return Sources(tuple(images), tuple(videos))


def _named(sources: Iterable[str]) -> Iterator[str]:
    for source in sources:
        if source.lower().endswith(LISTS) and Path(source).is_file():
            for line in read_list(Path(source)):
                with reading(f"{source}: {line:.200}"):
                    if line.lower().endswith(LISTS) and Path(line).is_file():
                        raise FileError(f"{source}: names another list, {line}; name that one beside it")
                    found = _matches(line)
                yield from found
        else:
            yield from _matches(source)


def read_list(path: Path) -> list[str]:
    """The sources that a text file names, one in a line; empty lines and those that begin with # are left out.

    Paths are relative to the folder of the file; where nothing is there, to the current one. Raises ValueError for a
    file without sources, or that is no text.
    """
    try:
        lines = [line.strip() for line in content_of(path).decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: a list of sources must be text in UTF-8, one source in a line") from error
    with reading(path, "write a source in each line"):
        found = [_beside(path, line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise FileError(f"{path}: names no source; write an image, folder or video in each line")
    return found


def _beside(path: Path, line: str) -> str:
    """A line of a list, from the list's folder if it leads somewhere from there."""
    if _scheme(line) or is_camera(line):
        return line
    near = path.parent / line
    return str(near) if near.exists() or (_is_pattern(line) and _glob(str(near))) else line


def _glob(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path has no absolute patterns


def _is_pattern(source: str) -> bool:
    return glob.has_magic(source) and not _scheme(source) and not Path(source).exists()


def _matches(source: str) -> list[str]:
    """The images, videos and folders that a pattern matches, sorted; a source that is no pattern itself."""
    if not _is_pattern(source):
        return [source]
    from detseg.data.formats.image_files import IMAGE_EXTENSIONS

    endings = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)
    matching = _glob(source)
    # Below **, folders match beside their files, which would come twice.
    folders = "**" not in source
    found = [path for path in matching if path.lower().endswith(endings) or (folders and Path(path).is_dir())]
    if not found:
        others = f"; {len(matching)} other files match" if matching else ""
        raise ValueError(f"{source}: matches no image, video or folder{others}")
    return found


def is_video(source: str) -> bool:
    """Whether a source is a video, a camera's number or the address of a stream, and not images.

    Of a web address whose ending says nothing, the server is asked.
    """
    scheme = _scheme(source)
    if scheme in ("http", "https"):
        return _is_video_address(source)
    if is_camera(source) or scheme in STREAMS:
        return True
    return source.lower().endswith(VIDEO_EXTENSIONS) and not Path(source).is_dir()


def is_camera(source: str) -> bool:
    """Whether a source is the number of a camera."""
    return re.fullmatch("0*[0-9]{1,2}", source) is not None and not Path(source).exists()


def is_stream(source: str) -> bool:
    """Whether a source is an address and no file."""
    return _scheme(source) in (*STREAMS, "http", "https")


def _scheme(source: str) -> str:
    """What an address begins with, else nothing."""
    return source.partition("://")[0].lower() if "://" in source else ""


def _is_video_address(address: str) -> bool:
    from detseg.data.formats.image_files import IMAGE_EXTENSIONS

    try:
        path = urlsplit(address).path.lower()
        if path.endswith((*VIDEO_EXTENSIONS, *PLAYLISTS)):
            return True
        if path.endswith(IMAGE_EXTENSIONS):
            return False
        with urlopen(Request(address, headers={"User-Agent": "detseg"}), timeout=PATIENCE) as answer:
            return str(answer.headers.get("Content-Type", "")).lower().startswith(MEDIA)
    except (OSError, ValueError, HTTPException):
        return False  # whoever opens it says what is wrong


def title_of(source: str) -> str:
    """What to call a source in messages: an address without user and password."""
    if is_camera(source):
        return f"camera {source}"
    if not is_stream(source):
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def name_of(source: str) -> str:
    """A name for files that are written of a video: a file's own, ``camera-0``, the last part of an address."""
    if is_camera(source):
        return f"camera-{int(source)}"
    if not is_stream(source):
        return Path(source).stem
    parts = urlsplit(source)
    name = Path(parts.path).stem or (parts.hostname or "stream")  # without user and password
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
