"""A sweep on a cluster, played through: slots take cells, nodes fail, cells go on elsewhere."""

import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Machines of one kind under one engine.

    Attributes:
      nodes: number of machines.
      slots: cells that a machine trains at once.
      start: seconds from the command to the first cell.
      per_cell: seconds that a cell takes beside its epochs: process, data, compiling, files.
      failures: how often a node fails, per hour; a cell in progress then starts again from its
        last epoch.
      repair: seconds until a failed node takes cells again.
    """

    nodes: int
    slots: int
    start: float = 0.0
    per_cell: float = 0.0
    failures: float = 0.0
    repair: float = 600.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a sweep went.

    Attributes:
      seconds: from the command to the last result.
      lost: seconds of slots that failures cost: epochs that were lost, and starts in vain.
      failures: how often a node failed that was training.
      busy: share of the slots' time spent on epochs that counted.
    """

    seconds: float
    lost: float
    failures: int
    busy: float


def play(cells: Sequence[tuple[float, int]], cluster: Cluster, seed: int = 0) -> Outcome:
    """Plays a sweep through: each free slot takes the longest cell that waits.

    Args:
      cells: seconds per epoch and number of epochs of each.
      cluster: the machines.
      seed: of the times at which nodes fail.

    Returns:
      How it went.

    Raises:
      ValueError: if there is no slot.

    Example:
      >>> from cluster_model import Cluster, play
      >>> play([(1.0, 60)] * 4, Cluster(nodes=2, slots=1, per_cell=5.0)).seconds
      130.0
    """
    if cluster.nodes < 1 or cluster.slots < 1:
        raise ValueError(f"no slot to train in: {cluster}")
    rng = np.random.default_rng(seed)
    rate = cluster.failures / 3600

    def next_failure(after: float) -> float:
        return after + rng.exponential(1 / rate) if rate else np.inf

    fails = [next_failure(0.0) for _ in range(cluster.nodes)]
    down_until = [0.0] * cluster.nodes
    # Longest first, as the sweeps do; what a failure gives back comes first of all.
    waiting = sorted(cells, key=lambda cell: cell[0] * cell[1])
    free = [(cluster.start, node) for node in range(cluster.nodes) for _ in range(cluster.slots)]
    heapq.heapify(free)
    end, lost, failures, useful = cluster.start, 0.0, 0, 0.0
    # Epochs of cells in flight when a node fails come back when it does, and not before.
    back: list[tuple[float, int, tuple[float, int]]] = []
    while waiting or back:
        now, node = heapq.heappop(free)
        while back and back[0][0] <= now:
            waiting.append(heapq.heappop(back)[2])
        if not waiting:  # all that is left is still to be given back
            heapq.heappush(free, (back[0][0], node))
            continue
        while fails[node] <= now:  # it may have failed while it had nothing to do
            down_until[node] = fails[node] + cluster.repair
            fails[node] = next_failure(down_until[node])
        if now < down_until[node]:
            heapq.heappush(free, (down_until[node], node))
            continue
        each, epochs = waiting.pop()
        done = now + cluster.per_cell + each * epochs
        if done <= fails[node]:
            useful += each * epochs
            end = max(end, done)
            heapq.heappush(free, (done, node))
            continue
        failed = fails[node]
        kept = max(0, int((failed - now - cluster.per_cell) // each)) if each else epochs
        useful += each * kept
        lost += failed - now - each * kept
        failures += 1
        heapq.heappush(back, (failed, failures, (each, epochs - kept)))
        heapq.heappush(free, (failed, node))
    slots = cluster.nodes * cluster.slots
    return Outcome(end, lost, failures, useful / (slots * end) if end else 1.0)
