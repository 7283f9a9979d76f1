"""Made-up cells at the study's settings, and what a claim makes of them."""

from verdicts.findings import CLAIMS
from verdicts.runs import DEPTHS
from verdicts.store import Store

LOST = {"epoch": 0, "step": 38}


def cell(setting, depth, accuracy, precision="float32", lost=None, restarted=None, **changes):
    """A cell with a seed for each accuracy, None for one that diverged."""
    again = restarted or [[] for _ in accuracy]
    return setting.cell(depth, precision).settings() | {
        "seeds": list(range(len(accuracy))), "test_accuracy": list(accuracy),
        "diverged": [(lost or LOST) if value is None else None for value in accuracy],
        "restarted": again, "restarts": max(map(len, again)),
    } | changes  # fmt: skip


def cells(setting, mean, depths=DEPTHS, seeds=2, **changes):
    """Cells around a mean, whose runs scatter by a tenth of a percent."""
    means = mean if callable(mean) else lambda depth: mean
    return [
        cell(setting, p, [means(p) + 0.1 * (-1) ** seed for seed in range(seeds)], **changes)
        for p in depths
    ]


def judge_store(name, store):
    (claim,) = [claim for claim in CLAIMS if claim.name == name]
    return claim.judge(store)


def judge(name, *runs):
    return judge_store(name, Store([result for own in runs for result in own]))
