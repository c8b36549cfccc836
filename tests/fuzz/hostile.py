"""Values that programs stumble over, as they stand in files: the same for every kind of file."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

T = TypeVar("T")

CANARY = Path(tempfile.gettempdir()) / "detseg-fuzz-canary"  # code that ran from a file has made it
TOUCH = f"touch {CANARY}"

NUMBERS = (
    *("0", "-0.0", "-1", "1", "0.5", "255", "256", "65536", "-7", "3.7", "1e-320", "00012", "0x1F", "1_000", "+3"),
    *("1e6", "99999999", "2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775809", "18446744073709551615", "18446744073709551616", "1e19", "1e38", "1e39", "1e308", "1e400"),
    *("-1e400", "NaN", "nan", "-nan", "Infinity", "-Infinity", "inf", "-inf", "1" + "0" * 400, "1" + "0" * 5000),
    *("٣", "½", "²", "1,5", "1.5.2", "--1", "1e", "."),
)
WORDS = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "a\nb",
        "a\r\nb",
        "null",
        "true",
        "rose",
        "0",
        "-",
        "?",
        "%s%n",
        "{}",
        "[]",
        "()",
        "__proto__",
    ),
    *(
        "\x00",
        "a\x00b.jpg",
        "a.jpg\x00",
        "\x1b[31mred\x1b[0m\x07",
        "\x85\u2028\u200b\u202e",
        "\ufeff",
        "\ufffe",
        "caf\u00e9.jpg",
    ),
    *(
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "&lt;",
        "&amp;&bogus;",
        "]]>",
        "'; --",
        "$(" + TOUCH + ")",
    ),
    *(
        "../../../../etc/passwd",
        "/etc/passwd",
        "/dev/null",
        "/",
        ".",
        "..",
        "C:\\a.jpg",
        "file:///etc/passwd",
        "~",
        "//a",
    ),
    *(
        "http://127.0.0.1:1/a.jpg",
        "con",
        "a/b/c.jpg",
        "*",
        "**",
        "[a-",
        "a?b.jpg",
        "x" * 300,
        "x/" * 3000,
        "y" * 100_000,
    ),
    *("data:image/png;base64,!!!!", "iVBORw0KGgo=", "eJwrySxJBQAFLQHj", "1 2 3", "1,2,3", "0 0 0 0 0", "🌼" * 20),
)
TEXTS = (
    *(text.encode() for text in (*NUMBERS, *NUMBERS, *WORDS)),  # numbers twice: they take the place of numbers
    *(
        b"\xff\xfe",
        b"caf\xe9",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\x80\x81",
        b"[" * 100_000,
        b'"',
        b"'",
        b"#",
        b"\\",
    ),
    *(b"a: b: c", b"- ", b": ", b"{", b"<a>", b"<", b"!!python/object/apply:os.system ['" + TOUCH.encode() + b"']"),
)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of them, as it is: `Generator.choice` would make arrays of them."""
    return choices[int(rng.integers(len(choices)))]
