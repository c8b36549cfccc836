"""Stopping on signals: Ctrl-C and SIGTERM end a run after the step under way."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop(threading.Event):
    """Set by Ctrl-C or SIGTERM while `on_signals` is entered; a second Ctrl-C interrupts at once."""

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handle the signals; where they are handled elsewhere (not in the main thread), do nothing."""
        first = 0.0

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal first
            now = time.monotonic()
            # Launchers pass on the Ctrl-C that the terminal has sent to all processes already.
            if self.is_set() and number == signal.SIGINT and now - first > 1:
                raise KeyboardInterrupt
            first = first or now
            self.set()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, stop) for number in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)
