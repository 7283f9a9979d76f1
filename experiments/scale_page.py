"""The page on scale: what scale.py measured, and what it predicts from it."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from cluster_model import Cluster, Outcome, play

from comparisons import ratio
from enorm_jax.methods import STUDY

EPOCHS, SEEDS = 60, 3
DEPTHS = tuple(range(1, 20, 2))

# Assumed, not measured.
QUEUE_SECONDS = 60.0  # until Slurm starts an array job
RARE, OFTEN = 1 / 1000, 1 / 24  # failures of a node an hour: one's own, and preemptible ones

# So many cells shared the GPU when those in results/ were trained; the files do not say.
ON_GPU = 12


def study(benchmark: dict[str, Any], precision: str = "float32") -> list[tuple[float, int]]:
    """The cells of figures 2 and 3: seconds per epoch with its test pass, and epochs.

    Each is trained by one of two workers. Biases cost nothing to speak of; what lies between the
    benchmark's depths is interpolated.
    """
    measured = {depth["depth"]: depth["contenders"] for depth in benchmark["depths"]}
    longer = beside_another(benchmark, precision)
    cells = []
    for method in STUDY:
        seconds = [
            entry["seconds_per_epoch"] + entry["test_pass_seconds"]
            for depth in sorted(measured)
            for entry in [measured[depth][f"{method} {precision}"]]
        ]
        for depth in DEPTHS:
            each = longer * float(np.interp(depth, sorted(measured), seconds))
            cells += [(each, EPOCHS)] * SEEDS * 2  # without bias and with
    return cells


def beside_another(benchmark: dict[str, Any], precision: str) -> float:
    """An epoch of one of two workers, on a core of its own, over one that has both cores."""
    both = f"enorm {precision}"
    found = [ratio(depth, f"{both} 2 workers", both) for depth in benchmark["depths"]]
    return next(value for value in found if value is not None)


def gpu_cells(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fully connected cells that a GPU trained to the end."""
    return [
        result
        for result in results
        if result["experiment"] == "fc"
        and result["device"]["platform"] == "gpu"
        and not any(result["diverged"])
    ]


def study_on_gpu(trained: Sequence[dict[str, Any]]) -> list[tuple[float, int]]:
    """The cells of figures 2 and 3, all seeds in one: seconds per epoch, and epochs.

    An epoch takes the median over a method's cells at that depth; what lies between the depths is
    interpolated, and under the least one it takes as long as there. Two to five seeds in a cell
    make no difference to speak of.
    """
    cells = []
    for method in STUDY:
        measured = defaultdict(list)
        for result in trained:
            if result["method"] == method:
                measured[result["depth"]].append(result["seconds_per_epoch"])
        depths = sorted(measured)
        seconds = [statistics.median(measured[depth]) for depth in depths]
        each = np.interp(DEPTHS, depths, seconds)
        cells += [(float(value), EPOCHS) for value in each] * 2  # without bias and with
    return cells


def gpu_start(trained: Sequence[dict[str, Any]]) -> float:
    """Seconds that a cell's programs took to compile there, in the mean."""
    return statistics.mean(result["compile_seconds"] for result in trained)


def hours(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def typical(cells: list[tuple[float, int]], cluster: Cluster) -> Outcome:
    """The middle one of nine plays, by their durations."""
    return sorted((play(cells, cluster, seed) for seed in range(9)), key=lambda o: o.seconds)[4]


def measured_table(found: dict[str, Any]) -> list[str]:
    """What every engine costs here."""
    lines = [
        "| engine | cells an hour | seconds a cell | of them: epochs | once a sweep (s) |",
        "|---|---|---|---|---|",
    ]
    for name, engine in found["engines"].items():
        lines.append(
            f"| {name} | {engine['cells_per_hour']} | {engine['seconds_per_cell']:.2f} | "
            f"{engine['training_seconds'] / slots(name):.2f} | {engine['start_seconds']:.1f} |"
        )
    return lines


def slots(name: str) -> int:
    """How many cells an engine trained at once."""
    return 1 if name == "local, 1 worker" else 2


def overhead(engine: dict[str, Any], name: str) -> float:
    """Seconds of a slot that a cell takes beside its epochs, test passes included."""
    return slots(name) * engine["seconds_per_cell"] - engine["training_seconds"]


def engines(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What an engine costs in the model: seconds to start, and of a cell."""
    own = found["engines"]
    return {
        name: {"start": own[key]["start_seconds"] + wait, "per_cell": overhead(own[key], key)}
        for name, key, wait in (
            ("local", "local, 2 workers", 0.0),
            ("ray", "ray", 0.0),
            ("slurm", "slurm:local", QUEUE_SECONDS),
        )
    }


def predicted_table(
    found: dict[str, Any], benchmark: dict[str, Any], trained: Sequence[dict[str, Any]]
) -> list[str]:
    """The study on clusters."""
    cost = engines(found)
    cells = study(benchmark)
    gpu = study_on_gpu(trained)
    lines = [
        "| | engine | failures of a node | time | slots busy with epochs | lost to failures |",
        "|---|---|---|---|---|---|",
    ]
    rows: list[tuple[str, str, list[tuple[float, int]], Cluster]] = [
        ("this machine, 2 workers", "local", cells, Cluster(1, 2, **cost["local"])),
    ]
    rows += [
        ("100 such machines", engine, cells, Cluster(100, 2, **cost[engine], failures=rate))
        for engine in ("ray", "slurm")
        for rate in (RARE, OFTEN)
    ]
    start = gpu_start(trained)
    rows += [
        (
            "1 GPU, a dozen cells at once",
            "local",
            gpu,
            Cluster(1, ON_GPU, start=cost["local"]["start"], per_cell=start),
        ),
        (
            "8 GPUs, likewise",
            "ray",
            gpu,
            Cluster(8, ON_GPU, start=cost["ray"]["start"], per_cell=start, failures=RARE),
        ),
    ]
    for name, engine, work, cluster in rows:
        outcome = typical(work, cluster)
        every = f"every {1 / cluster.failures:.0f} h" if cluster.failures else "none"
        lines.append(
            f"| {name} | {engine} | {every} | {hours(outcome.seconds)} | {outcome.busy:.0%} | "
            f"{hours(outcome.lost)} |"
        )
    return lines


def break_even(found: dict[str, Any], engine: str, nodes: int, each: float) -> int | None:
    """The least number of cells of so many seconds for which an engine beats one machine."""
    cost = engines(found)
    for cells in range(1, 2001):
        work = [(each / EPOCHS, EPOCHS)] * cells
        alone = play(work, Cluster(1, 2, **cost["local"])).seconds
        if play(work, Cluster(nodes, 2, **cost[engine])).seconds < alone:
            return cells
    return None


def break_even_table(found: dict[str, Any]) -> list[str]:
    """When each engine pays."""
    lengths = {"10 s": 10.0, "1 min": 60.0, "10 min": 600.0}
    lines = [
        "| engine, machines of 2 cores | " + " | ".join(f"cells of {t}" for t in lengths) + " |",
        "|---|" + "---|" * len(lengths),
    ]
    for engine in ("ray", "slurm"):
        for nodes in (2, 10):
            least = [break_even(found, engine, nodes, each) for each in lengths.values()]
            lines.append(f"| {engine}, {nodes} | " + " | ".join(map(str, least)) + " |")
    return lines


def written(
    found: dict[str, Any], benchmark: dict[str, Any], results: Sequence[dict[str, Any]]
) -> str:
    """The page.

    Args:
      found: content of scale.json.
      benchmark: content of benchmark.json.
      results: the committed cells.

    Returns:
      Markdown.
    """
    own = found["engines"]
    ray, local, slurm = own["ray"], own["local, 2 workers"], own["slurm:local"]
    gain = own["local, 1 worker"]["seconds_per_cell"] / local["seconds_per_cell"]
    cells = study(benchmark)
    core_hours = sum(each * epochs for each, epochs in cells) / 3600
    device = found["device"]
    trained = gpu_cells(results)
    kinds = " and ".join(f"one {kind}" for kind in sorted({r["device"]["kind"] for r in trained}))
    text = [
        "# Beyond one machine",
        "",
        "Written by `experiments/scale.py`; nothing here is typed by hand but the sentences.",
        "",
        "## Measured",
        "",
        f"On {device['cpus']} cores of an {device['kind']}, nothing else running: sweeps of 4 and "
        f"of 12 cells of `fc_sweep.py {found['sweep']}`, each {found['rounds']} times, medians. "
        "The difference of the two is the cost of a cell, the rest what a sweep costs once. Data "
        "and compiled programs were in their caches.",
        "",
        *measured_table(found),
        "",
        f"- Two workers get {gain:.2f} times as many cells through as one; their cells are short "
        "here, so that starting counts.",
        f"- A cell takes {overhead(local, 'local, 2 workers'):.1f} s of its worker beside its "
        "epochs (test passes, checkpoints, the result), "
        f"{overhead(ray, 'ray'):.1f} s with Ray and {overhead(slurm, 'slurm:local'):.1f} s with "
        "`slurm:local`, submitit's stand-in for Slurm, which starts a process a cell: imports, "
        "data, and reading the compiled program.",
        f"- Ray's cluster of one machine takes {ray['start_seconds'] - local['start_seconds']:.0f} "
        "s to start; an existing one, less.",
        "- Ray runs its workers at niceness 15 (`RAY_worker_niceness`): on a machine that does "
        "other work too, they starve. Here they ran at 0.",
        "",
        "## Predicted",
        "",
        f"Figures 2 and 3 at {SEEDS} seeds: {len(cells)} cells of {EPOCHS} epochs, "
        f"{core_hours:.0f} hours of a core in float32 by the benchmark. Played through by "
        "`cluster_model.py` (longest cell first; a node that fails comes back after ten minutes; "
        "its cells go on from their last epochs elsewhere), the middle one of nine plays. "
        f"Assumed: Slurm's queue takes {QUEUE_SECONDS:.0f} s.",
        "",
        f"On GPUs it is {len(study_on_gpu(trained))} cells of {SEEDS} seeds each, with bfloat16 "
        f"products: epochs take as long as in the {len(trained)} cells of `results/` that "
        f"{kinds} trained, a dozen at once, and programs compile for "
        f"{gpu_start(trained):.0f} s a cell, as they did there. Test passes and checkpoints are "
        "left out.",
        "",
        *predicted_table(found, benchmark, trained),
        "",
        "The longest cell bounds what more machines can gain; where a study has fewer cells than "
        "slots, give seeds to cells of their own (`--seeds 0-0`, `1-1`, ...).",
        "",
        "## When each engine pays",
        "",
        "The least number of cells for which an engine on so many machines of 2 cores is faster "
        "than this machine alone:",
        "",
        *break_even_table(found),
        "",
        "One machine: the local executor, always. A few machines that are yours, or preemptible "
        "ones: Ray, which also shows all progress as it happens. A cluster that has a queue: "
        "Slurm, which needs nothing else running, and costs a start a cell.",
        "",
    ]
    return "\n".join(text)
