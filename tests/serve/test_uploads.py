"""Uploads that are refused: too large, no image, damaged, bombs, odd forms."""

import io
import struct
import tempfile
import zlib

import numpy as np
import pytest

from detseg.serve import uploads
from detseg.serve.limits import Limits
from tests.serve.served import Told, client_of, image_file

SMALL = Limits(bytes=20_000, pixels=10_000)


@pytest.fixture
def undecoded(monkeypatch):
    """Fails where an image is decoded."""

    def decode(*_):
        raise AssertionError("was decoded")

    monkeypatch.setattr(uploads, "decode_image", decode)


def post(content, limits=SMALL, model=None, **options):
    reply = client_of(model, limits=limits).post("/predict", content=content, **options)
    assert reply.status_code == 200 or list(reply.json()) == ["error"]
    return reply.status_code, reply.json().get("error", "")


def png_chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, *chunks):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


def test_an_image_at_the_limits_is_taken_and_one_beyond_them_not():
    content = image_file("PNG", (100, 100))
    for file, limit in ((content, len(content)), (content, len(content) - 1)):
        status, error = post(file, Limits(bytes=limit, pixels=10_000))
        assert status == (200 if limit == len(content) else 413), error
    assert "larger than 0.030" in error and "MB" in error
    assert post(image_file("PNG", (100, 101)), Limits(pixels=10_000)) == (
        413,
        "the image has 100x101 pixels, more than the 0.01 million that are taken; send a smaller copy or a part of it",
    )


def test_a_form_at_the_limit_is_taken_and_one_beyond_it_not():
    content = image_file("PNG", (100, 100))
    for limit, expected in ((len(content), 200), (len(content) - 1, 413)):
        client = client_of(limits=Limits(bytes=limit))
        assert client.post("/predict", files={"file": content}).status_code == expected


def test_a_body_that_claims_nothing_is_counted():
    def parts():
        for _ in range(50):
            yield bytes(1000)

    assert post(parts())[0] == 413


@pytest.mark.parametrize("size", [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (101, 100)])
def test_a_png_bomb_is_refused_by_its_header(size, undecoded):
    status, error = post(png(*size))
    assert status == 413 and "pixels" in error


def test_a_png_bomb_of_text_or_profile_is_refused(undecoded):
    packed = zlib.compress(bytes(3_000_000))
    assert post(png(10, 10, png_chunk(b"zTXt", b"Comment\0\0" + packed)))[0] == 415


def test_a_jpeg_bomb_is_refused_by_its_header(undecoded):
    content = bytearray(image_file("JPEG", (64, 64)))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", 65_000, 65_000)
    assert post(bytes(content))[0] == 413


def test_a_tiff_bomb_of_bands_is_refused_by_its_header(undecoded):
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((60, 80, 9), np.uint8), photometric="minisblack", planarconfig="contig")
    status, error = post(stream.getvalue(), Limits())
    assert status == 400 and error == "the image has 9 bands and the model takes 3; send what it takes"
    assert (
        post(stream.getvalue(), Limits(pixels=10_000), Told(channels=9))[0] == 413
    )  # as much as 10 800 pixels of four


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is no image",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
        b"%PDF-1.7",
        b"P6 10 10 255\n" + bytes(300),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"II*\0\xff\xff\xff\xff",
        b"RIFF\0\0\0\0WEBPVP8 ",
        bytes(5000),
        bytes(range(256)) * 20,
    ],
)
def test_other_files_are_refused_whatever_they_claim(content, undecoded):
    for kind in ("image/png", "application/octet-stream"):
        status, error = post(content, headers={"content-type": kind})
        assert status == 415 and "no image of a known type (JPEG, PNG" in error
    client = client_of(limits=SMALL)
    assert client.post("/predict", files={"file": ("a.png", content, "image/png")}).status_code == 415


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_images_that_are_cut_short_are_refused(kind, share):
    content = image_file(kind, (60, 60))
    status, error = post(content[: int(share * len(content))])
    assert status in (400, 415), error
    assert "0x" not in error and "BytesIO" not in error


def test_a_damaged_image_is_refused():
    content = bytearray(image_file("PNG", (60, 60)))
    content[200:400] = bytes(200)
    assert post(bytes(content))[0] == 400


@pytest.mark.parametrize(
    "kind", ["text/html", "application/json", "application/x-www-form-urlencoded", "multipart/mixed"]
)
def test_other_types_of_content_are_refused(kind):
    status, error = post(image_file(), headers={"content-type": kind})
    assert status == 415 and kind in error


def test_a_request_without_an_image_is_refused():
    assert post(b"") == (400, "the request holds no image; send the file as its body or in a form")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"files": {"image": b"x"}}, "no file in the field 'file'"),
        ({"files": {"other": b"x"}, "data": {"file": "text"}}, "no file in the field 'file'"),
        ({"files": [("file", b"x"), ("file", b"y")]}, "Too many files"),
        ({"files": {"file": b"x"}, "data": {f"field{i}": "1" for i in range(20)}}, "Too many fields"),
        ({"files": {"file": b""}}, "holds no image"),
    ],
)
def test_odd_forms_are_refused(form, message):
    reply = client_of().post("/predict", **form)
    assert reply.status_code == 400 and message in reply.json()["error"]


@pytest.mark.parametrize("kind", ["", "; boundary=", "; boundary=abc", "; boundary=" + "a" * 300, "; boundary=\xe9"])
def test_broken_forms_are_refused(kind):
    headers = {"content-type": f"multipart/form-data{kind}".encode("latin-1")}
    for content in (b"hello", b"--abc\r\n\r\n", b"--abc\r\nContent-Disposition: form-data\r\n\r\nx\r\n--abc--\r\n"):
        assert post(content, headers=headers)[0] == 400


def test_uploads_stay_in_memory(monkeypatch):
    def on_disk(*_):
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", on_disk)
    content = image_file("BMP", (800, 700))
    assert len(content) > 1_600_000
    assert client_of().post("/predict", files={"file": ("../../up.bmp", content)}).status_code == 200
