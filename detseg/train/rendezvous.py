"""How processes find each other where a launcher may start them again: torchrun keeps one store for all its attempts.

In it lie the addresses of processes that have died, which those of the next attempt may take for each other's, and wait
for for half an hour. So the processes first agree on a name for their attempt, and what they then put into the store is
under that name.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from accelerate.utils import InitProcessGroupKwargs
from torch import distributed

SCHEME = "detseg"


def rendezvous_options() -> list[Any]:
    """What `Accelerator` is to be told, as its `kwargs_handlers`; nothing where there is but one attempt."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts == 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return []
    with contextlib.suppress(RuntimeError):  # it is registered already
        distributed.register_rendezvous_handler(SCHEME, _meet)
    return [InitProcessGroupKwargs(init_method=f"{SCHEME}://")]


def _meet(
    url: str, timeout: timedelta = timedelta(minutes=30), **_: Any
) -> Iterator[tuple[distributed.Store, int, int]]:
    """The store of this attempt, this process's number and how many there are, as `init_process_group` wants them."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(*address, world, is_master=False, timeout=timeout)
    yield distributed.PrefixStore(attempt(store, rank, world), store), rank, world


def attempt(store: distributed.Store, rank: int, world: int) -> str:
    """A name that the living processes agree on, each of which calls this, in a store where others have before.

    Each gives itself a name. The first process lists the names that it finds until all whom it lists have answered to
    its own; the others wait for a list with their name in it, which none but a living process can have written.
    """
    own = uuid.uuid4().hex
    store.set(f"name/{rank}", own)
    names: list[str] = []
    while own not in names:
        time.sleep(0.02)
        if rank == 0:
            found = [store.get(f"name/{other}").decode() for other in range(world)]
            store.set("names", json.dumps(found))
            if all(store.check([f"{own}/{other}"]) for other in found[1:]):
                names = found
        else:
            names = json.loads(store.get("names"))
    store.set(f"{names[0]}/{own}", "")
    return names[0]
