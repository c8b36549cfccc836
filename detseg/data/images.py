"""Reading images: always uint8 RGB, upright, whatever the file holds. And writing them."""

import io
import logging
import mmap
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from detseg.data.claims import chunks_fit, decode_opencv, too_short
from detseg.data.headers import ORIENTATION, header_size
from detseg.data.shard_members import place_of, read_content
from detseg.files import WriteError, write_atomically
from detseg.reading import FileError, cause, in_memory, reading, require_file

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]

WIDTH, HEIGHT, BITS = 256, 257, 258  # TIFF tags: the size, and the bits of each band
MAX_PIXELS = 2**30  # as many as OpenCV decodes
MAX_BYTES = 8 * MAX_PIXELS  # of a JPEG or PNG file: four channels of 16 bits, not compressed
HEIC = (".heic", ".heif", ".hif")
HEIC_READERS = ("pi_heif", "pillow_heif")  # either reads HEIC, through Pillow; the second one's wheels hold GPL code
PROGRAMS = ("EPS",)  # formats that Pillow hands to another program, which runs what is in them (Ghostscript)

_warned_of_few_bits = False
_warned_of_frames = False
ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")  # formats that may hold several images; the others' are previews

# Pillow takes more than 179 million pixels for an attack, and aerial images and slides have as many. The limit is one
# of the whole process; it is raised once, since images are read in several threads. No limit at all stays none.
if PIL.Image.MAX_IMAGE_PIXELS is not None:
    PIL.Image.MAX_IMAGE_PIXELS = max(PIL.Image.MAX_IMAGE_PIXELS, MAX_PIXELS)


def _open_known(source: str | Path | BinaryIO) -> PIL.Image.Image:
    """`PIL.Image.open`, to which HEIC is added when a file is of no other kind and a package that reads it is there."""
    if isinstance(source, (str, Path)):
        require_file(source)
    try:
        return PIL.Image.open(source)
    except PIL.UnidentifiedImageError:
        if ".heic" in PIL.Image.registered_extensions() or not register_heic():
            raise
    if not isinstance(source, (str, Path)):
        source.seek(0)
    return PIL.Image.open(source)


def register_heic() -> bool:
    """Let Pillow read HEIC, if a package that does is there; whether it is."""
    for name in HEIC_READERS:
        if find_spec(name) is not None:
            import_module(name).register_heif_opener()
            return True
    return False


def open_image(source: str | Path | BinaryIO) -> PIL.Image.Image:
    """`PIL.Image.open` for images of up to `MAX_PIXELS`; ValueError if it has more, else whatever Pillow raises.

    `PROGRAMS` are refused, whatever their files are called.
    """
    too_large = f"it has more than {MAX_PIXELS} pixels, the most that can be read; cut it into several images"
    try:
        image = _open_known(source)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(too_large) from error
    if image.format in PROGRAMS:
        image.close()
        raise ValueError(f"an {image.format} file is a program that draws; save the image as PNG")
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(too_large)
    kind = "raw TIFF" if image.format == "TIFF" and image.info.get("compression") == "raw" else image.format
    if lacking := too_short(kind, image.width, image.height, _length(source)):
        image.close()
        raise ValueError(lacking)
    return image


def _length(file: str | Path | BinaryIO) -> int:
    """Bytes of a file, which may be open."""
    if isinstance(file, (str, Path)):
        return Path(file).stat().st_size
    place = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(place)
    return length


def read_image(path: str | Path, channels: int = 3) -> Image:
    """Read an image as uint8 RGB (H, W, 3), or with another number of channels (H, W, channels): see `decode_bands`.

    The path is that of a file, or of a member of a shard (`detseg.data.shard_members`). The EXIF orientation is
    applied. Grey becomes three equal channels, palettes are looked up, 16-bit values are scaled to 8 bits (65535
    becomes 255), transparent pixels are laid over white. Bands beyond the third count only where they are marked as
    transparency.

    Raises:
        FileError: the file is missing, is no image, or is cut short. The message names it.
    """
    try:
        data = read_content(path)
    except FileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: of a path with a zero byte
        raise FileError(f"{path}: the image cannot be read: {cause(error)}") from error
    return decode_image(data, path, channels)


def decode_image(data: bytes, path: str | Path, channels: int = 3) -> Image:
    """As `read_image`, of the content of a file; `path` is what messages call it."""
    if channels != 3:
        from detseg.data.bands import decode_bands

        with reading(path), suppress(PIL.UnidentifiedImageError):  # of bands that Pillow does not know
            open_image(io.BytesIO(data)).close()
        return decode_bands(data, path, channels)
    header = read_header(data, path)
    if header.frames > 1:
        _warn_of_frames(header.frames, path)
    if header.bands:
        raise FileError(
            f"{path}: a TIFF image of {header.bands} bands cannot be read as RGB; save three of them as an RGB image, "
            f"or use all of them by --channels {header.bands}"
        )
    # OpenCV fills the rest of a JPEG or PNG that is cut short with grey, Pillow refuses it.
    suspect = data[:2] in (b"\xff\xd8", b"\x89P") and not _has_end_mark(data)
    pixels = _decode_strictly(data, path) if suspect or header.misread else _decode(data, path)
    if pixels.ndim == 3 and not header.transparent:
        pixels = pixels[..., :3]  # a fourth band is infrared, or anything
    return _upright(_to_rgb(pixels, path), header.orientation)


def read_sized_image(path: str | Path, size: Sequence[int], channels: int = 3) -> Image:
    """`read_image`, which also raises ValueError unless the size is (width, height); zeros where it is not known."""
    image = read_image(path, channels)
    if min(size) > 0 and image.shape[:2] != (size[1], size[0]):
        raise FileError(
            f"{path}: the image is {image.shape[1]}x{image.shape[0]} pixels but its annotations say "
            f"{size[0]}x{size[1]}; correct the size in the annotation file or the image"
        )
    return image


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the image as `read_image` returns it, from the file's header only; or ValueError."""
    if place_of(path) is not None:
        return read_header(read_content(path), path).size
    size = header_size(path)
    return size if size is not None and size[0] * size[1] <= MAX_PIXELS else read_header(path, path).size


class ImageInfo(NamedTuple):
    """What an image's header says."""

    stored_size: tuple[int, int]  # width, height
    orientation: int  # of EXIF, 1..8
    misread: bool  # OpenCV reads what is transparent wrongly, or more than four bands not at all
    transparent: bool = False
    frames: int = 1  # of an animation, or pages
    bands: int = 0  # of a TIFF image that has more than four and that Pillow cannot read

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as `read_image` returns them."""
        return self.stored_size[::-1] if self.orientation >= 5 else self.stored_size


def inspect_image(path: str | Path) -> ImageInfo:
    """Check, as `read_image`, that a file is a whole image, but do not decode JPEG and PNG files with an end mark."""
    if place_of(path) is not None:
        return inspect_content(read_content(path), path)
    header = read_header(path, path)
    if not _is_whole(path):
        read_image(path, header.bands or 3)
    return header


def _is_whole(path: str | Path) -> bool:
    if Path(path).stat().st_size > MAX_BYTES:
        return False
    with (
        in_memory(path),
        Path(path).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return _has_end_mark(data)


def inspect_content(data: bytes, path: str | Path) -> ImageInfo:
    """As `inspect_image`, of the content of a file; `path` is what messages call it."""
    header = read_header(data, path)
    if not _has_end_mark(data):
        decode_image(data, path, header.bands or 3)
    return header


def read_header(source: bytes | str | Path, path: str | Path) -> ImageInfo:
    """What the header of a file or its content says; raises FileError, where it claims too much too."""
    try:
        with open_image(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            transparent = image.has_transparency_data
            frames = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
            if isinstance(image, TiffImageFile):  # Pillow and OpenCV both turn TIFF images by themselves
                # OpenCV leaves out the alpha of grey TIFF images and multiplies colours by theirs.
                return ImageInfo(image.size, 1, transparent or len(image.tag_v2.get(BITS, ())) > 4, transparent, frames)
            orientation = image.getexif().get(ORIENTATION, 1)
            # OpenCV knows of no grey level that is transparent.
            misread = transparent and image.mode in ("1", "L")
            return ImageInfo(image.size, orientation if orientation in range(1, 9) else 1, misread, transparent, frames)
    except FileNotFoundError as error:
        raise FileError(f"{path}: the image does not exist") from error
    except FileError:
        raise
    except PIL.UnidentifiedImageError as error:  # whose text may name a buffer in the file's place
        hint = "; pip install 'detseg[heic]' reads HEIC" if Path(path).suffix.lower() in HEIC else ""
        tags = tiff_tags(source)
        if tags is not None and len(tags.get(BITS, ())) > 4:  # which `decode_bands` knows
            return ImageInfo((int(tags[WIDTH]), int(tags[HEIGHT])), 1, misread=True, bands=len(tags[BITS]))
        what = f"not a readable image, or of an unknown format{hint}"
        raise FileError(f"{path}: {what}") from error
    except Exception as error:  # Pillow raises many kinds, from SyntaxError to struct.error
        raise FileError(f"{path}: not a readable image: {error}") from error


def tiff_tags(source: bytes | str | Path) -> ImageFileDirectory_v2 | None:
    """What the header of a TIFF image says; None for other files and damaged ones."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            tags = ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        return tags if {BITS, WIDTH, HEIGHT} <= set(tags) else None
    except Exception:  # it raises many kinds
        return None


def _has_end_mark(data: bytes | mmap.mmap) -> bool:
    """Whether a JPEG or PNG file has its end mark. False for other formats: only decoding tells."""
    if data[:2] == b"\xff\xd8":
        return data.rfind(b"\xff\xd9", _scan_start(data)) >= 0
    return data[:4] == b"\x89PNG" and b"IEND" in data[-4096:] and chunks_fit(data)


def _scan_start(data: bytes | mmap.mmap) -> int:
    """Where the coded pixels of a JPEG begin; a preview before them may have an end mark of its own."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        # A marker is FF xx and the length of what follows; FF may be repeated as padding.
        padding = data[place + 1] == 0xFF
        place += 1 if padding else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return place


def _decode(data: bytes, path: str | Path) -> NDArray[Any]:
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = decode_opencv(data, flags)
    if pixels is None:
        return _decode_strictly(data, path)
    if pixels.ndim == 3:
        code = cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        return cv2.cvtColor(pixels, code)
    return pixels


def _decode_strictly(data: bytes, path: str | Path) -> NDArray[Any]:
    """Decode with Pillow, which refuses files that are cut short and knows more formats."""
    try:
        with open_image(io.BytesIO(data)) as image:
            transparent = image.has_transparency_data
            return np.asarray(image.convert("RGBA" if transparent else "RGB"))
    except Exception as error:
        raise FileError(f"{path}: the image is damaged or cut short: {error}") from error


def _to_rgb(pixels: NDArray[Any], path: str | Path) -> Image:
    if pixels.dtype == np.uint16:
        _warn_of_few_bits(pixels, path)
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise FileError(f"{path}: pixels are {pixels.dtype}; save the image with 8 or 16 bits per channel")
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)  # type: ignore[return-value]
    if pixels.shape[2] == 4:  # laid over white
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def _warn_of_few_bits(pixels: NDArray[np.uint16], path: str | Path) -> None:
    """Warn of the first 16-bit image whose values are all small, as those of 12-bit cameras are."""
    global _warned_of_few_bits
    largest = int(pixels.max(initial=0))
    if 0 < largest < 65535 // 10 and not _warned_of_few_bits:
        _warned_of_few_bits = True
        log.warning(
            "%s: a 16-bit image whose largest value is %d, of 65535, so it is nearly black; if all are so (12-bit "
            "cameras), multiply their values by %d before training",
            *(path, largest, 65535 // max(largest, 4095)),
        )


def _warn_of_frames(frames: int, path: str | Path) -> None:
    """Warn of the first image of several frames or pages."""
    global _warned_of_frames
    if not _warned_of_frames:
        _warned_of_frames = True
        log.warning(
            "%s: has %d frames or pages, and only the first is read, here and of others like it; save each as an image "
            "of its own if they count",
            *(path, frames),
        )


def _upright(pixels: Image, orientation: int) -> Image:
    """Undo what EXIF orientation 1..8 says the camera did."""
    if orientation in (5, 6, 7, 8):
        pixels = cv2.transpose(pixels)  # type: ignore[assignment]
    mirror = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if mirror is None else cv2.flip(pixels, mirror)  # type: ignore[return-value]


def write_image(path: Path, image: Image, comment: bytes = b"") -> None:
    """Write RGB (H, W, 3) in the form that the path's ending names, JPEG with a quality of 95 and perhaps a comment.

    Raises:
        ValueError: images do not have the ending, or no image of that form has this size.
        WriteError: it cannot be written.
    """
    try:
        written, content = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        height, width = image.shape[:2]
        wanted = "images are written as .jpg, .png, .webp or .tif, and results as .json"
        raise ValueError(f"{path}: no image of {width}x{height} pixels can be written so; {wanted}") from error
    if not written:
        raise WriteError(f"{path}: could not be written")
    write_atomically(path, _with_comment(content.tobytes(), comment) if comment else content.tobytes())


def _with_comment(content: bytes, comment: bytes) -> bytes:
    """A JPEG file with a comment after its first segment, which says what kind of file it is."""
    place = 4 + int.from_bytes(content[4:6], "big")
    return content[:place] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment + content[place:]


def pixel_moments(image: Image) -> NDArray[np.float64]:
    """(1 + 2C,): number of pixels of an image (H, W, C), sums of its channels and of their squares, of values 0..1."""
    mean, deviation = (values.ravel() / 255 for values in cv2.meanStdDev(image))
    pixels = image.shape[0] * image.shape[1]
    return np.concatenate([[pixels], pixels * mean, pixels * (deviation**2 + mean**2)])
