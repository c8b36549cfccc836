"""One prediction at a time, in a thread of its own; a few requests wait, more are refused."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from detseg.serve.limits import Limits, Refused


class Worker:
    """The thread that predicts, and the places before it.

    A network uses all cores by itself: two predictions at a time would each take twice as long.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.busy = 0  # requests that have a place
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="predict")

    def place(self) -> "Place":
        """A place for a request, left at the end of its `with`; Refused if there is none.

        It is taken before the upload is read, so that only few are held in memory.
        """
        with self._lock:
            if self.busy > self.limits.waiting:
                raise Refused(503, f"{self.busy} other requests are being worked on; try again in a moment")
            self.busy += 1
        return Place(self)

    def close(self) -> None:
        """Take no more work; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def leave(self, _: object = None) -> None:
        """A request is done with."""
        with self._lock:
            self.busy -= 1

    def submit(self, work: Callable[[], bytes]) -> Future[bytes]:
        """Let the thread do some work when it comes to it."""
        return self._pool.submit(work)


class Place:
    """What one request does with the worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._future: Future[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    async def run(self, work: Callable[[], bytes]) -> bytes:
        """What `work` returns, when its turn has come; Refused if that takes too long."""
        self._future = self._worker.submit(work)
        seconds = self._worker.limits.seconds
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._future), seconds)
        except TimeoutError:
            raise Refused(504, f"there was no result within {seconds:g} seconds; send a smaller image") from None

    def __exit__(self, *_: object) -> None:
        if self._future is None:
            self._worker.leave()
        else:  # a thread cannot be stopped: its place is free when it has ended, not when nobody waits any longer
            self._future.cancel()
            self._future.add_done_callback(self._worker.leave)
