"""Units of work on a cluster: Ray Data hands them to actors that hold the model, as many as there is room for."""

import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from detseg.cluster.units import Unit
from detseg.cluster.worker import Job, Summary, Worker
from detseg.console import plain
from detseg.reading import cause

log = logging.getLogger(__name__)

# Ray hands out a unit again whenever its worker dies. After so many tries it is given up: an image may be what kills
# them. Units that fail otherwise, because storage does, are tried again when all others are done, in so many rounds.
TRIES, ROUNDS = 4, 3
PATIENCE = 10  # seconds without an answer


class Cluster(NamedTuple):
    """What a cluster has when it is connected to."""

    nodes: int
    cpus: int
    gpus: int
    cpus_per_gpu: int = 1  # on the node with the fewest

    @classmethod
    def of(cls, nodes: Sequence[Mapping[str, float]]) -> "Cluster":
        """Of the resources of its nodes."""
        cpus, gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
        shares = [int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1]
        return cls(len(nodes), cpus, gpus, max(1, min(shares, default=1)))


@contextmanager
def connected() -> Iterator[Cluster]:
    """The cluster of `RAY_ADDRESS` ("auto": the one that this machine belongs to), else one of this machine's cores for
    the block.

    Ray itself would also look for a cluster that was begun here once, and wait for minutes where that is gone.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent home of what was not asked for
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of what is repeated nobody needs to know
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(f"--engine ray needs {error.name}: pip install 'detseg[cluster]'") from error
    ours = not ray.is_initialized()
    address = os.environ.get("RAY_ADDRESS") or "local"
    if ours:
        try:
            _try(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except UnicodeEncodeError as error:  # of the command line, which Ray keeps as the name of the job
            where = f"in {plain(error.object)[:500]}; rename what they are of, or give links to it"
            raise ValueError(f"Ray takes no names that are not UTF-8, as {where}") from error
        except (OSError, RuntimeError, ValueError) as error:
            what = "Ray cannot begin here" if address == "local" else f"RAY_ADDRESS={address}: no cluster there"
            raise ValueError(f"{what}: {cause(error)}") from error
    try:
        yield Cluster.of([node["Resources"] for node in ray.nodes() if node["Alive"]])
    finally:
        if ours:
            ray.shutdown()


def _try(address: str) -> None:
    """Raise OSError where nobody listens at an address, which Ray would wait for five minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), PATIENCE).close()


class Actors(NamedTuple):
    """The actors that a job begins with, and what each takes."""

    number: int
    cpus: int
    gpus: int


def actors_for(cluster: Cluster, *, gpus: bool) -> Actors:
    """One for each GPU, with its share of the cores, where there are GPUs and they are of use; else one for each core,
    so that no core waits for another."""
    if gpus and cluster.gpus:
        return Actors(cluster.gpus, cluster.cpus_per_gpu, 1)
    return Actors(max(1, cluster.cpus), 1, 0)


def run(units: Sequence[Unit], job: Job, files: Mapping[str, bytes], actors: Actors) -> Iterator[Summary]:
    """Do units, in any order, each once; yields what came of each as soon as it is known.

    Args:
        units: what to do.
        job: what workers need to know; their threads are set here.
        files: those of the model.
        actors: see there.
    """
    job = replace(job, threads=actors.cpus)
    left = {unit.name: unit for unit in units}
    tally = _tally()
    for number in range(ROUNDS):
        for summary in _round(list(left.values()), job, files, actors, tally):
            if not summary.failed or number == ROUNDS - 1:
                del left[summary.unit]
                yield summary
        if not left:
            return
        log.info("%d units are tried again", len(left))
    for name in left:
        yield Summary(name, failed=f"{name}: was lost in each of {ROUNDS} rounds")


class Tally:
    """Counts how often each unit was begun."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """Count a unit; returns its number of tries."""
        self._counts[name] += 1
        return self._counts[name]


def _tally() -> Any:
    """A tally as an actor on this node: others may go."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Tally).options(num_cpus=0, scheduling_strategy=here).remote()


def _round(
    units: Sequence[Unit], job: Job, files: Mapping[str, bytes], actors: Actors, tally: Any
) -> Iterator[Summary]:
    import ray

    _quiet()
    model = ray.put(dict(files))  # one copy a node
    # Fewer actors than at first are enough: a node may go. More: another one may come.
    first = min(actors.number, len(units))
    work = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
    done = work.map_batches(
        _Actor,
        batch_size=1,
        fn_constructor_args=(job, [model], tally),
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=first, max_size=len(units)),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus,
    )
    try:
        for row in done.iter_rows():
            yield row["summary"]
    except ray.exceptions.RayError as error:
        raise ValueError(f"no worker could begin, is the same detseg on all nodes? {cause(error)}") from error


class _Actor:
    """A worker, as Ray Data calls it."""

    def __init__(self, job: Job, model: list[Any], tally: Any) -> None:
        import ray

        self.worker, self.tally = Worker(job, ray.get(model[0])), tally

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        return {"summary": [self._do(unit) for unit in batch["unit"]]}

    def _do(self, unit: Unit) -> Summary:
        import ray

        if ray.get(self.tally.begin.remote(unit.name)) > TRIES:
            return Summary(unit.name, failed=f"{unit.name}: {TRIES} workers died while they were at it")
        return self.worker.do(unit)


def _quiet() -> None:
    """No lines of Ray's between ours, and no end where a unit is lost: that is seen in the end."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
