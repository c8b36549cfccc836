"""`detseg train` with a state saved as often as can be: -m tests.faults.program TASK …

Number formats are not timed, and nothing is drawn. With SAVE_SECONDS in the environment, the state is saved as often;
with CLOCK=back, the clock of the day goes backwards; with REPORT=yes, the report is written.
"""

import os
import sys
import time
from dataclasses import replace
from functools import partial

from detseg.cli import main
from detseg.train import process, runner
from detseg.train.loop import Settings
from detseg.train.precision import Choice, Decision


def run(words):
    choice = Choice("fp32", True)
    process.choose = lambda spec, precision: Decision(choice, {choice: 1.0})
    runner.Settings = partial(Settings, save_seconds=float(os.environ.get("SAVE_SECONDS", "0")))
    if os.environ.get("CLOCK") == "back":
        clock, begun = time.time, time.time()
        time.time = lambda: begun - 3600 * (clock() - begun)
    if os.environ.get("REPORT") != "yes":
        train = runner.train
        runner.train = lambda config, console, draw: replace(train(config, console), metrics=None)
    return main(["train", *words])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
