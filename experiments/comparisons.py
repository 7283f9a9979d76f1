"""What a benchmark's seconds say: the comparisons that the project aims at, and a table."""

import statistics
from typing import Any

from rich.table import Column, Table

from enorm_jax.layers import PRECISIONS
from enorm_jax.timing import within_rounds


def ratio(depth: dict[str, Any], above: str, below: str, with_test: bool = False) -> float | None:
    """Median over rounds of the ratio of two contenders' epochs; None if one was not timed."""
    pair = [depth["contenders"].get(name) for name in (above, below)]
    if None in pair:
        return None
    columns = [
        [seconds + with_test * entry["test_pass_seconds"] for seconds in entry["all_seconds"]]
        for entry in pair
    ]
    return statistics.median(within_rounds(*columns))


def ratios(depth: dict[str, Any]) -> dict[str, float]:
    """The comparisons that the project aims at, at one depth."""
    workers = depth["workers"]
    found: dict[str, float | None] = {}
    for precision in PRECISIONS:
        base, own = f"baseline {precision}", f"enorm {precision}"
        found |= {
            f"ENorm over baseline, {precision}": ratio(depth, own, base),
            f"BN over baseline, {precision}": ratio(depth, f"bn {precision}", base),
            f"2 seeds over 1, {precision}": ratio(depth, f"{own} 2 seeds", own),
            f"4 seeds over 1, {precision}": ratio(depth, f"{own} 4 seeds", own),
        }
        side = ratio(depth, own, f"{own} {workers} workers")
        found[f"cells per hour, {workers} workers over 1, {precision}"] = side and workers * side
    fast = "enorm bfloat16"
    best = ratio(depth, "torch enorm bfloat16", fast), ratio(depth, "torch enorm float32", fast)
    plain = [ratio(depth, f"torch baseline {p}", "baseline bfloat16") for p in PRECISIONS]
    found |= {
        "float32 over bfloat16, ENorm": ratio(depth, "enorm float32", fast),
        "PyTorch's best over ours, ENorm": min(filter(None, best), default=None),
        "PyTorch's best over ours, baseline": min(filter(None, plain), default=None),
        "the study's protocol over ours, with test pass": ratio(depth, "torch study", fast, True),
    }
    return {name: value for name, value in found.items() if value is not None}


def table(depth: dict[str, Any]) -> Table:
    """What was measured at one depth, for people."""
    peak = depth["matmul_flops"]
    found = Table(
        Column("contender", no_wrap=True), "s/epoch", "per seed", "test pass (s)", "GFLOP/s",
        "of peak", "compile (s)", "memory (MB)",
        title=f"depth {depth['depth']}; peak: " + ", ".join(
            f"{p} {rate / 1e9:.0f} GFLOP/s" for p, rate in peak.items()
        ),
    )  # fmt: skip
    for name, entry in depth["contenders"].items():
        precision = "bfloat16" if "bfloat16" in name else "float32"
        found.add_row(
            name,
            f"{entry['seconds_per_epoch']:.2f}",
            f"{entry['seconds_per_epoch'] / entry['seeds']:.2f}",
            f"{entry['test_pass_seconds']:.2f}",
            f"{entry['flops'] / 1e9:.0f}",
            f"{entry['flops'] / peak[precision]:.2f}",
            f"{entry['compile_seconds']:.1f}" if "compile_seconds" in entry else "",
            f"{entry['memory_mb']:.0f}" if "memory_mb" in entry else "",
        )
    return found
