"""Uploads: bytes within their limits, then an image whose size its header tells before anything is decoded.

Nothing that a client names is used: neither its file name nor the type that it claims. Uploads stay in memory.
"""

import asyncio
import io
from collections.abc import AsyncGenerator
from functools import cache
from typing import NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from detseg.data.images import BITS, HEIGHT, WIDTH, decode_image, register_heic, tiff_tags
from detseg.serve.limits import Limits, Refused

FIELD = "file"
"""The field of a form that holds the image."""

# Pillow knows many more, some of which call other programs: EPS runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF", "HEIF")
NAMES = {"MPO": "", "HEIF": "HEIC"}  # what they are called, where that is not their name
BINARY = ("", "application/octet-stream", "binary/octet-stream")  # types that say nothing
FORM = "multipart/form-data"
FORM_BYTES = 10_000  # that a form may have beside the image
PIECE = 2**18  # bytes of a form that are read at a time, between other requests
PATIENCE = 4  # times the limit is read, and thrown away, so that a client that is still sending sees the answer


async def read_upload(request: Request, limits: Limits) -> bytes:
    """The image file in a request: all of its body, or the field `FIELD` of a form.

    Raises Refused: it is too large, comes too slowly, or is no file.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM and kind not in BINARY and not kind.startswith("image/"):
        await discard(request, limits)
        what = f"{kind[:100]!r} is no type of an image"
        raise Refused(415, f"{what}; send the file itself, or a form ({FORM}) with the field {FIELD!r}")
    room = limits.bytes + (FORM_BYTES if kind == FORM else 0)
    body = await _read(request, room, limits)
    if body is not None and kind == FORM:
        body = await _file_of(request, body)
    if body is None or len(body) > limits.bytes:
        raise Refused(413, f"the file is larger than {limits.bytes / 1e6:g} MB, the most that is taken")
    if not body:
        raise Refused(400, "the request holds no image; send the file as its body or in a form")
    return body


async def discard(request: Request, limits: Limits) -> None:
    """Read what is still being sent, within limits: a client that sends on may never look at an early answer."""
    await _read(request, 0, limits)


async def _read(request: Request, most: int, limits: Limits) -> bytes | None:
    """The body of a request; None if it has more than so many bytes."""
    body, total = bytearray(), 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                total += len(chunk)
                if total <= most:
                    body += chunk
                elif total <= PATIENCE * limits.bytes:
                    body.clear()
                else:
                    break
    except TimeoutError:
        raise Refused(408, f"the file did not arrive within {limits.seconds:g} seconds") from None
    return bytes(body) if total <= most else None


class _InMemory(MultiPartParser):
    """A parser of forms that writes nothing to disk."""

    spool_max_size = 2**62


async def _file_of(request: Request, body: bytes) -> bytes:
    """The one file of a form."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), PIECE):
            yield body[start : start + PIECE]
            await asyncio.sleep(0)

    try:
        form = await _InMemory(request.headers, pieces(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise Refused(400, f"the form cannot be read: {error.message}") from error
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        raise Refused(400, f"the form has no file in the field {FIELD!r}")
    return await file.read()


class Header(NamedTuple):
    """What an image says of itself before it is decoded."""

    width: int
    height: int
    bands: int  # of TIFF images of more than Pillow reads; else 0


@cache
def known_formats() -> tuple[str, ...]:
    """Formats that are read here, as Pillow calls them."""
    PIL.Image.init()
    register_heic()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def format_names() -> list[str]:
    """What the formats that are read here are called."""
    return [name for name in (NAMES.get(name, name) for name in known_formats()) if name]


def open_upload(data: bytes, limits: Limits, channels: int) -> NDArray[np.uint8]:
    """The pixels (H, W, channels) of an image file; Refused if it is none, damaged or too large."""
    header = _header(data)
    if header.bands and header.bands != channels:
        raise Refused(400, f"the image has {header.bands} bands and the model takes {channels}; send what it takes")
    # More than four bands take as much memory as so many more pixels.
    if header.width * header.height * max(4, header.bands) / 4 > limits.pixels:
        raise Refused(
            413,
            f"the image has {header.width}x{header.height} pixels, more than the {limits.pixels / 1e6:g} million "
            "that are taken; send a smaller copy or a part of it",
        )
    try:
        return decode_image(data, "the file", channels)
    except ValueError as error:
        raise Refused(400, str(error)) from error


def _header(data: bytes) -> Header:
    """What the header says; of that alone, and of known formats only, for Pillow decodes for some questions."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=known_formats()) as image:
            return Header(image.width, image.height, 0)
    except PIL.Image.DecompressionBombError as error:
        raise Refused(413, "the image has far too many pixels; send a smaller copy or a part of it") from error
    except Exception as error:  # it raises many kinds
        tags = tiff_tags(data)
        try:
            if tags is not None and len(tags[BITS]) > 4:
                return Header(int(tags[WIDTH]), int(tags[HEIGHT]), len(tags[BITS]))
        except (TypeError, ValueError):
            pass
        what = f"the file is no image of a known type ({', '.join(format_names())}), or its header is damaged"
        raise Refused(415, what) from error
