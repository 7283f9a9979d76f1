"""Claims about the time of a training step, from what `step_cost.py` measured."""

from collections.abc import Callable, Mapping
from typing import Any

from enorm_jax.results import interval
from enorm_jax.timing import within_rounds
from verdicts.intervals import Estimate
from verdicts.outcome import Outcome, Table, Verdict
from verdicts.store import Store

NAMES = {"fc": "fully connected, p = 9", "conv": "convolutional", "resnet": "ResNet of 8 layers"}
Seconds = Mapping[str, Any]  # by method, one a round


def share(store: Store, low: float, high: float) -> Outcome:
    """Whether BN takes between `low` and `high` percent of a convolutional network's step.

    Args:
      store: with what was measured.
      low: percent.
      high: percent.

    Returns:
      The outcome.
    """

    def of_bn(seconds: Seconds) -> list[Estimate]:
        plain = within_rounds(seconds["baseline"], seconds["bn"])
        return [_estimate([100 * (1 - part) for part in plain])]

    def state(found: list[Estimate]) -> bool | None:
        (part,) = found
        if part.above(low) and part.below(high):
            return True
        return False if part.below(low) or part.above(high) else None

    return _judged(
        store, of_bn, ("baseline", "bn"), state, ("conv", "resnet"), ("BN's share of a step",)
    )


def cheaper(store: Store) -> Outcome:
    """Whether a step with ENorm takes less time than one with BN, and one with GN.

    Args:
      store: with what was measured.

    Returns:
      The outcome.
    """

    def over(seconds: Seconds) -> list[Estimate]:
        return [
            _estimate(
                [100 * (part - 1) for part in within_rounds(seconds["enorm"], seconds[other])]
            )
            for other in ("bn", "gn")
        ]

    def state(found: list[Estimate]) -> bool | None:
        if all(estimate.below() for estimate in found):
            return True
        return False if any(estimate.above() for estimate in found) else None

    header = ("ENorm over BN", "ENorm over GN")
    return _judged(store, over, ("enorm", "bn", "gn"), state, tuple(NAMES), header)


def _estimate(values: list[float]) -> Estimate:
    return Estimate(*interval(values))


def _judged(
    store: Store,
    estimates: Callable[[Seconds], list[Estimate]],
    methods: tuple[str, ...],
    state: Callable[[list[Estimate]], bool | None],
    deciding: tuple[str, ...],
    header: tuple[str, ...],
) -> Outcome:
    """The outcome of estimates at each network, of which some decide."""
    measured = {
        network: {method: entry["seconds"] for method, entry in of["methods"].items()}
        for network, of in store.costs.get("networks", {}).items()
    }
    networks = [name for name in NAMES if set(methods) <= measured.get(name, {}).keys()]
    states: dict[str, bool | None] = {}
    rows, figures = [], []
    for network in networks:
        found = estimates(measured[network])
        rows.append((NAMES[network], *(f"{estimate} %" for estimate in found)))
        figures.append(f"{NAMES[network]} {', '.join(f'{estimate} %' for estimate in found)}")
        if network in deciding:
            states[network] = state(found)
    if not states:
        return Outcome("undecided", "not measured", (), "no measurement", "step_cost.py")
    lacking = [NAMES[network] for network in deciding if network not in networks]
    verdict: Verdict = "undecided"
    why = "not all networks are measured" if lacking else "the intervals do not decide it"
    if False in states.values():
        verdict, why = "does not hold", ""
    elif not lacking and all(states.values()):
        verdict, why = "holds", ""
    line = f"{' and '.join(header)}: {'; '.join(figures)}"
    return Outcome(
        verdict, line, (Table(("network", *header), tuple(rows)),), why, ", ".join(lacking)
    )
