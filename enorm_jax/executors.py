"""Where cells are trained: in processes of this machine, on a Ray cluster, or by Slurm."""

import dataclasses
from collections.abc import Mapping, Sequence

from enorm_jax.cell import Cell
from enorm_jax.errors import InputError
from enorm_jax.jobs import Job, Observer
from enorm_jax.workers import run_cells

ENGINES = ("local", "ray", "slurm")


@dataclasses.dataclass(frozen=True)
class Executor:
    """Where cells are trained, and what each of them takes.

    Attributes:
      engine: ``"local"``, ``"ray"`` or ``"slurm"``.
      address: of the Ray cluster; for Slurm, ``"local"`` or ``"debug"`` to try it without; or
        None.
      workers: how many cells are trained at once at most; None for what the engine thinks.
      cpus: cores of a cell, with Ray and Slurm.
      gpus: GPUs of a cell, likewise.
      options: of Slurm, such as ``{"partition": "gpu"}``.
    """

    engine: str = "local"
    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"no executor {self.engine}: choose one of {', '.join(ENGINES)}")
        if self.engine == "local" and (self.address or self.gpus or self.cpus != 1):
            raise InputError(
                "the local executor takes no address and no --cpus-per-cell or --gpus-per-cell: "
                "choose --executor ray or slurm, or leave them out"
            )
        if self.options and self.engine != "slurm":
            raise InputError("--slurm is for --executor slurm: leave one out or add the other")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise InputError(f"--gpus-per-cell {self.gpus:g}: give a fraction or a whole number")
        if self.engine == "slurm" and self.gpus != int(self.gpus):
            raise InputError(
                f"--gpus-per-cell {self.gpus:g}: Slurm shares no GPU; give a whole number"
            )

    def run(self, cells: Sequence[Cell], job: Job, observer: Observer) -> None:
        """Trains cells.

        Args:
          cells: cells to train.
          job: what they have in common.
          observer: who is told, in this process.

        Raises:
          InputError: if the engine is missing or cannot be reached, a cell's process died three
            times, or as `Job.run`.
          OSError: as `Job.run`.
        """
        if not cells:
            return
        if self.engine == "local":
            run_cells(cells, job, observer, self.workers or 1)
        elif self.engine == "ray":
            from enorm_jax.ray_executor import run_on_ray  # Ray is not for everyone

            run_on_ray(
                cells,
                job,
                observer,
                address=self.address,
                cpus=self.cpus,
                gpus=self.gpus,
                at_once=self.workers,
            )
        else:
            from enorm_jax.slurm_executor import run_on_slurm

            run_on_slurm(
                cells,
                job,
                observer,
                cluster=self.address,
                cpus=self.cpus,
                gpus=int(self.gpus),
                at_once=self.workers,
                options=self.options,
            )
