"""Large XML files read piece by piece, with flat memory: no tree is built, defusedxml guards the parser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from xml.parsers.expat import ExpatError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import XMLParser

from detseg.data.annotations import AnnotationError
from detseg.reading import require_file

PIECE = 1 << 18  # bytes


class XmlHandler:
    """What a reader does where the elements of a file begin and end."""

    expat: Any = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""

    def end(self, tag: str) -> None:
        """An element ends."""

    @property
    def line(self) -> int:
        """Where the parser stands."""
        return int(self.expat.CurrentLineNumber)

    def listen(self) -> None:
        """Gather the text from here on; otherwise text costs no time."""
        self._heard: list[str] = []
        self.expat.CharacterDataHandler = self._heard.append

    def heard(self) -> str:
        """The text since `listen`, stripped; stops listening."""
        self.expat.CharacterDataHandler = None
        return "".join(self._heard).strip()


def stream_xml(path: Path, handler: XmlHandler) -> Iterator[None]:
    """Parse a file; yields after each piece, so that the caller can take what the handler has gathered.

    Raises:
        AnnotationError: the file cannot be read, is not well-formed, or defines entities.
    """
    parser: Any = XMLParser()
    expat = handler.expat = parser.parser  # the handlers here, in place of those that build a tree, are fast
    expat.ordered_attributes = False
    expat.DefaultHandlerExpand = expat.CharacterDataHandler = None
    expat.StartElementHandler, expat.EndElementHandler = handler.start, handler.end
    try:
        with require_file(path).open("rb") as file:
            while piece := file.read(PIECE):
                parser.feed(piece)
                yield
            expat.Parse(b"", True)
        yield
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ParseError, ExpatError) as error:
        raise AnnotationError(f"{path}: not well-formed XML: {error}") from error  # it says line and column
    except AnnotationError:
        raise
    except (DefusedXmlException, LookupError, ValueError) as error:
        remedy = "; save it as UTF-8" if "encoding" in str(error) else ""  # the parser knows no gb2312
        raise AnnotationError(f"{path}: cannot be read as XML: {error}{remedy}") from error
