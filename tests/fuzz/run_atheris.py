"""Run a door of files under atheris: `python tests/fuzz/run_atheris.py --target json --seconds 60`.

atheris comes with `pip install 'detseg[fuzz]'`. A find ends the run with its traceback; the file is in the folder
of `--output` then.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    with atheris.instrument_imports(include=["detseg"]):
        from detseg.reading import FileError
        from tests.fuzz.atheris_targets import TARGETS

        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--target", choices=TARGETS, required=True)
        parser.add_argument("--seconds", type=int, default=60)
        parser.add_argument("--output", type=Path, default=Path(), help="folder for files that were finds")
        options = parser.parse_args()
        logging.disable(logging.CRITICAL)
        target = TARGETS[options.target]()

    def one_input(content: bytes) -> None:
        try:
            target.read(content)
        except (FileError, OSError):
            return

    corpus = Path(tempfile.mkdtemp(prefix="atheris-corpus-"))
    for i, content in enumerate(target.start):
        (corpus / f"good{i}").write_bytes(content)
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-artifact_prefix={options.output}/",
        "-timeout=10",
    ]
    atheris.Setup([*arguments, "-max_len=40000", str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
