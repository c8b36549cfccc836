"""What tables and pages say, as text."""

from html.parser import HTMLParser

from rich.console import Console


def printed(renderable, width=80):
    """A renderable as a terminal shows it."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def rows_of(text):
    """Cells by the first one of their row; of tables with lines between their columns."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("│").split("│")] for line in lines)}


class Page(HTMLParser):
    """Tags with their attributes, text, and the table cells by row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.open, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)
        if self.rows and any(tag in ("td", "th") for tag in self.open):
            self.rows[-1][-1] += data
