"""What a request may cost, and how one that may not is refused."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of each request, whoever sends it.

    Attributes:
        bytes: of an upload.
        pixels: of an image, known from its header before it is decoded.
        seconds: until an upload is there, and from then until its prediction is.
        waiting: requests that wait while another is predicted; more are refused.
    """

    bytes: int = 32_000_000
    pixels: int = 64_000_000
    seconds: float = 60.0
    waiting: int = 8


class Refused(Exception):
    """A request that gets no answer but this message.

    Attributes:
        status: of HTTP.
        message: what is wrong and what to do, for the one who asked.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
