"""The Ray cluster that a sweep runs on, and whether a cell fits there."""

import logging
import os
import socket
import warnings
from typing import Any

from enorm_jax.errors import InputError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0


def connect(address: str | None) -> Any:
    """Ray, connected to a cluster.

    Args:
      address: as `ray.init` takes it; None for that in ``RAY_ADDRESS``, else for one that runs on
        this machine, else for one that ends with `ray.shutdown`.

    Returns:
      The module `ray`.

    Raises:
      InputError: if Ray is missing or there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--executor ray needs Ray: pip install 'enorm_jax[cluster]'") from None
    where = address or os.environ.get("RAY_ADDRESS")
    advice = "start one with `ray start --head`, or give its address as --executor ray:HOST:PORT"
    _check_reachable(where, advice)
    options: dict[str, Any] = {} if where else {"include_dashboard": False}
    try:
        with warnings.catch_warnings():
            # What Ray forks, it replaces by other programs at once.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray has no common one for it
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(
            f"no Ray cluster at {where or 'this machine'} ({first}): {advice}"
        ) from None
    return ray


def _check_reachable(where: str | None, advice: str) -> None:
    """Ray itself would try for a minute."""
    host, _, port = (where or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"no Ray cluster at {where} ({why}): {advice}") from None


def check_room(ray: Any, cpus: int, gpus: float) -> None:
    """Refuses what no node could ever run.

    Args:
      ray: the module, connected.
      cpus: cores that a cell takes.
      gpus: GPUs that a cell takes.

    Raises:
      InputError: if no node has as much.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not gpus and any(node.get("GPU", 0) for node in nodes):
        logger.info("the cluster has GPUs, and cells take none: give --gpus-per-cell to use them")
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        most = max((node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
        raise InputError(
            f"no node of the cluster has {cpus} cores and {gpus:g} GPUs, the largest has "
            f"{most[0]:g} and {most[1]:g}: ask for fewer with --cpus-per-cell, --gpus-per-cell"
        )
