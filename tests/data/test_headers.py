"""Sizes from headers are those that Pillow tells, for every kind of JPEG and PNG and however they are damaged."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from detseg.data.headers import ORIENTATION, START, header_size
from detseg.data.images import MAX_PIXELS, image_size, read_header
from tests.cases import case

SIZE = (37, 21)
NOISE = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 4), dtype=np.uint8)


def encoded(kind, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(NOISE[..., :3]).convert(mode).save(file, kind, **options)
    return file.getvalue()


def tiff(order="<", tags=((ORIENTATION, 3, 1, 6),)):
    """EXIF of tags, each a number, a type, how many values, and a value or where the values are."""
    rows = [struct.pack(order + ("HHIHxx" if tag[1] == 3 else "HHII"), *tag) for tag in tags]
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IH", 8, len(rows)) + b"".join(rows) + bytes(4)


def segment(kind, content):
    return struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content


def exif(*arguments):
    return segment(0xE1, b"Exif\0\0" + tiff(*arguments))


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


JPEG, PNG = encoded("JPEG"), encoded("PNG")
XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="8"/>'


def in_jpeg(*parts):
    return JPEG[:2] + b"".join(parts) + JPEG[2:]


def in_png(*chunks, place=33):
    return PNG[:place] + b"".join(chunks) + PNG[place:]


def told(path, content):
    """What the header tells and what Pillow tells; nothing where Pillow refuses the file."""
    path.write_bytes(content)
    try:
        slow = read_header(path, path).size
    except ValueError:
        slow = None
    return header_size(path), slow


def test_usual_files_need_no_pillow(tmp_path):
    turned = SIZE[::-1]
    for name, content, size in [
        ("baseline", JPEG, SIZE),
        ("progressive", encoded("JPEG", progressive=True), SIZE),
        ("grey", encoded("JPEG", "L"), SIZE),
        ("cmyk, Adobe", encoded("JPEG", "CMYK"), SIZE),
        ("icc", encoded("JPEG", icc_profile=bytes(150_000)), SIZE),
        ("comment", encoded("JPEG", comment=b"\xff\xc0" * 9000), SIZE),
        ("fill bytes", in_jpeg(b"\xff" * 9, exif(), b"\xff"), turned),
        ("big endian", in_jpeg(exif(">")), turned),
        ("others first", in_jpeg(exif("<", [(0x10F, 2, 5, 30), (ORIENTATION, 3, 1, 5)])), turned),
        ("no orientation", in_jpeg(exif("<", [(0x128, 3, 1, 2)])), SIZE),
        ("preview in EXIF", in_jpeg(segment(0xE1, b"Exif\0\0" + tiff() + encoded("JPEG", "L", quality=1))), turned),
        ("EXIF beats XMP", in_jpeg(segment(0xE1, XMP), exif()), turned),
        ("large EXIF", in_jpeg(segment(0xE1, b"Exif\0\0" + tiff() + bytes(60_000))), turned),
        ("far EXIF", in_jpeg(segment(0xEF, bytes(START)), exif(), segment(0xEF, bytes(START))), turned),
        *((mode, encoded("PNG", mode), SIZE) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("text", in_png(chunk(b"tEXt", b"Software\0detseg"), chunk(b"pHYs", bytes(9))), SIZE),
        ("many chunks", in_png(*[chunk(b"tEXt", bytes([65, 0]) * 900)] * 9, place=len(PNG) - 12), SIZE),
    ]:
        with case(name):
            assert told(tmp_path / "a", content) == (size, size)
            assert image_size(tmp_path / "a") == size


def test_every_orientation_in_both_byte_orders(tmp_path):
    for value in (*range(10), 77, 65535):
        for order in "<>":
            with case(value, order):
                size = SIZE[::-1] if value in (5, 6, 7, 8) else SIZE
                content = in_jpeg(exif(order, [(ORIENTATION, 3, 1, value)]))
                assert told(tmp_path / "a.jpg", content) == (size, size)
                (tmp_path / "a.png").write_bytes(in_png(chunk(b"eXIf", tiff(order, [(ORIENTATION, 3, 1, value)]))))
                assert image_size(tmp_path / "a.png") == size


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow
def test_what_is_unusual_is_left_to_pillow(tmp_path):
    last = len(PNG) - 12
    mpo = io.BytesIO()
    Image.fromarray(NOISE[..., :3]).save(mpo, "MPO", save_all=True, append_images=[Image.new("RGB", (90, 80))])
    for name, content, size in [
        ("XMP turns it", in_jpeg(segment(0xE1, XMP)), SIZE[::-1]),
        ("EXIF in two parts", in_jpeg(exif("<", []), exif()), SIZE),
        ("orientation is a long", in_jpeg(exif("<", [(ORIENTATION, 4, 1, 6)])), SIZE[::-1]),
        ("broken value before it", in_jpeg(exif("<", [(0x10F, 2, 20, 30), (ORIENTATION, 3, 1, 5)])), SIZE),
        ("no TIFF", in_jpeg(segment(0xE1, b"Exif\0\0 nothing")), SIZE),
        ("12 bits", JPEG.replace(b"\x00\x11\x08", b"\x00\x11\x0c"), None),
        ("no height", JPEG.replace(struct.pack(">HH", *SIZE[::-1]), bytes(2) + b"\0\x25"), None),
        ("several images", mpo.getvalue(), SIZE),
        ("EXIF of a PNG", in_png(chunk(b"eXIf", tiff())), SIZE[::-1]),
        ("after its pixels", in_png(chunk(b"eXIf", tiff()), place=last), SIZE[::-1]),
        ("of XMP", in_png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), place=last), SIZE[::-1]),
        ("wrong checksum", PNG[:29] + bytes(4) + PNG[33:], None),
        ("wrong checksum of a text", in_png(chunk(b"tEXt", b"a\0b")[:-1] + b"?"), None),
        ("no pixels", PNG[:33] + PNG[-12:], None),
        ("gif", encoded("GIF"), SIZE),
        ("nothing", b"", None),
    ]:
        with case(name):
            assert told(tmp_path / "a", content) == (None, size)


def test_more_pixels_than_can_be_read_are_refused(tmp_path):
    large = struct.pack(">HH", 65_535, MAX_PIXELS // 65_535 + 1)
    (tmp_path / "a.jpg").write_bytes(JPEG.replace(struct.pack(">HH", *SIZE[::-1]), large))
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(ValueError, match="more than 1073741824 pixels"):
        image_size(tmp_path / "a.jpg")
    for path in (tmp_path, tmp_path / "missing.jpg", "a\0.jpg"):
        assert header_size(path) is None


def test_files_cut_at_any_byte(tmp_path):
    for name, content in [("jpg", in_jpeg(segment(0xE0, bytes(9)), exif(">"))), ("png", PNG)]:
        for length in range(len(content)):
            fast, slow = told(tmp_path / name, content[:length])
            assert fast in (slow, None), (name, length)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow
def test_damaged_headers_and_pixels(tmp_path):
    draw = random.Random(0)
    jpeg = in_jpeg(exif("<", [(0x10F, 2, 9, 8), (0x110, 2, 9, 8), (ORIENTATION, 3, 1, 6), (0x128, 3, 1, 2)]), exif(">"))
    first = JPEG.index(b"\xff\xda")
    understood = 0
    for content, end in ((in_jpeg(exif()), first + 40), (jpeg, 120), (in_png(chunk(b"tEXt", b"a\0b")), 48)):
        for _ in range(600):
            damaged = bytearray(content)
            for _ in range(draw.randint(1, 3)):
                damaged[draw.randrange(end)] = draw.choice((draw.randrange(256), 0, 255))
            fast, slow = told(tmp_path / "a", damaged)
            assert fast in (slow, None), bytes(damaged)
            understood += fast is not None
    assert understood > 120
    assert told(tmp_path / "a", JPEG[: first + 14] + draw.randbytes(999)) == (SIZE, SIZE)
    assert told(tmp_path / "a", PNG[:41] + bytes(len(PNG) - 53) + PNG[-12:]) == (SIZE, None)  # Pillow decodes it


def test_real_images(flowers_det):
    paths = sorted((flowers_det / "images").iterdir())[::10]
    assert [header_size(path) for path in paths] == [read_header(path, path).size for path in paths]
