"""Files at web addresses."""

from http.client import HTTPException
from urllib.error import URLError
from urllib.request import Request, urlopen

LARGEST = 2**30  # bytes of an image
PATIENCE = 30  # seconds without an answer


def is_web_address(source: str) -> bool:
    """Whether a source is a web address."""
    return source.lower().startswith(("http://", "https://"))


def download(address: str) -> bytes:
    """The content of the file at a web address; raises ValueError, naming it, where it gives nothing."""
    try:
        with urlopen(Request(address, headers={"User-Agent": "detseg"}), timeout=PATIENCE) as answer:
            content: bytes = answer.read(LARGEST + 1)
    except URLError as error:
        raise ValueError(f"{address}: cannot be downloaded: {error.reason}") from error
    except (OSError, ValueError, HTTPException) as error:
        raise ValueError(f"{address}: cannot be downloaded: {error}") from error
    if len(content) > LARGEST:
        raise ValueError(f"{address}: has more than {LARGEST / 1e9:.1f} GB, which is no image")
    return content
