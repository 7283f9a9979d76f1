"""What of the study's setting matters: claims on settings that differ from it in one thing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from enorm_jax.methods import STUDY, make_method
from verdicts.intervals import Estimate
from verdicts.ordering import average, difference
from verdicts.outcome import (
    Claim,
    Outcome,
    State,
    Table,
    Verdict,
    decide,
    missing,
    plural,
    state_of,
)
from verdicts.runs import AMPLIFIED, C_BY_DEPTH, DEPTHS, Runs, Setting
from verdicts.store import Store

AT = (3, 9, 15)  # depths
MATTERS = 0.5  # percent
BALANCED = tuple(name for name in STUDY if make_method(name).equalize)

Pair = tuple[Setting, Setting]  # the study's setting, and the changed one


@dataclasses.dataclass(frozen=True)
class Variant:
    """One thing that is changed, in one way or several.

    Attributes:
      name: of the claim.
      title: the claim that it matters.
      said: what was said about it.
      changes: fields of `Setting`, or of its cells, with their new values; one mapping each way.
      methods: names of the methods that it is changed for.
    """

    name: str
    title: str
    said: str
    changes: tuple[Mapping[str, Any], ...]
    methods: tuple[str, ...] = STUDY

    def pairs(self) -> list[Pair]:
        """For each way and method the study's setting and the changed one."""
        return [
            (Setting(method), changed(method, change))
            for change in self.changes
            for method in self.methods
        ]

    def judge(self, store: Store) -> Outcome:
        """Whether it matters, by all runs."""
        return matters(store, self.pairs())


TEST = (
    f"The changed setting minus the study's, in the mean over p = {', '.join(map(str, AT))}. A "
    f"method speaks for the claim if the interval lies above {MATTERS} % or below −{MATTERS} %, or "
    "if runs fail at a depth where none of the study's does; against it if the interval lies "
    "within. Holds with one method for it, does not hold with all against it."
)


def changed(method: str, change: Mapping[str, Any]) -> Setting:
    """A method's setting with a change; biases train in the gauge under ENorm without BN."""
    own = {field.name for field in dataclasses.fields(Setting)}
    known = {key: value for key, value in change.items() if key in own}
    if known.get("bias") and make_method(method).equalize and not make_method(method).norm:
        known["bias_handling"] = "gauge"
    rest = tuple((key, value) for key, value in change.items() if key not in own)
    return Setting(method, **known, changes=rest)


VARIANTS = (
    Variant(
        "inputs-image",
        "Normalizing each image by itself, instead of the data set, matters",
        "Named by the study among what may differ between it and the original figure.",
        ({"inputs": "image"},),
    ),
    Variant(
        "inputs-true",
        "The pixels' true deviations, instead of the published ones, matter",
        "Not published: the deviations that everybody uses are means of each image's own.",
        ({"inputs": "true"},),
    ),
    Variant(
        "constant-rate",
        "A constant rate and the best epoch on a fifth held out, not linear decay on all, matter",
        "Named by the study. A fifth of the training images is held out, and not trained on, which "
        "is part of the change.",
        ({"schedule": "constant", "select": "best", "fold": "0/5"},),
    ),
    Variant(
        "biases",
        "Biases matter",
        "The study trains without, and with for comparison. ENorm's are in the gauge here. Some of "
        "these runs were there before this test.",
        ({"bias": True},),
    ),
    Variant(
        "he-normal",
        "He's normal initialization, instead of the uniform one, matters",
        "The study takes the uniform, the original code the normal distribution.",
        ({"init": "he_normal"},),
    ),
    Variant(
        "simultaneous",
        "Taking all norms at the start of a cycle, instead of one after the other, matters",
        "The study takes them in sequence, the original code at once.",
        ({"order": "simultaneous"},),
        BALANCED,
    ),
    Variant(
        "last-left-out",
        "Leaving the last layer unbalanced matters",
        "The study balances it, the original code does not.",
        ({"balance_last": False},),
        BALANCED,
    ),
    Variant(
        "of-norms",
        "Balancing the scales of BN, which leaves the function as it is, matters",
        "Both public codes balance the kernels before BN, which BN undoes in the function.",
        ({"of_norms": True},),
        ("enorm+bn",),
    ),
    Variant(
        "c",
        "ENorm's c matters",
        "The study takes 1.2.",
        tuple({"c": c} for c in (1.0, 1.05, 1.1, 1.4)),
        BALANCED,
    ),
    Variant(
        "images",
        "Training on 40,960 images instead of 50,000 matters",
        "The original code trains on so many; its accuracies lie about 1 % under the study's.",
        ({"train_images": 40960},),
    ),
)


def matters(store: Store, pairs: Sequence[Pair], depths: Sequence[int] = AT) -> Outcome:
    """Whether a change makes a difference of more than half a percent for one method at least.

    Args:
      store: all runs.
      pairs: the study's setting and the changed one.
      depths: over which the mean is taken; both settings need two runs at each.

    Returns:
      The outcome.
    """
    states: dict[int, State] = {}
    every: list[Runs] = []
    rows, shown = [], []
    for place, (usual, other) in enumerate(pairs):
        cells, of_pair = [], []
        for depth in depths:
            precision = store.precision([other, usual], [depth])
            sides = store.at(other, depth, precision), store.at(usual, depth, precision)
            every += sides
            of_pair.append(sides)
            cells += [str(sides[0]), str(difference(store, *sides) or "–")]
        mean = _mean(store, of_pair)
        broken = sum(new.failed for new, old in of_pair if len(old.runs) > 1 and not old.failed)
        states[place] = "for" if broken else _state(mean)
        rows.append((other.label, *cells, str(mean or "–"), states[place]))
        shown += [f"{other.label} {mean}"] if mean else []
        shown += [f"{other.label}: {plural(broken, 'run')} failed"] if broken else []
    columns = (text for p in depths for text in (f"p = {p}", "change"))
    table = Table(("setting", *columns, "mean change", "speaks"), tuple(rows))
    return _outcome(decide(states, 1, refuting=len(pairs)), shown, table, every)


def _mean(store: Store, pairs: Sequence[tuple[Runs, Runs]]) -> Estimate | None:
    """The mean of first minus second; None unless two runs of each side learned everywhere."""
    if any(len(side.accuracies) < 2 for sides in pairs for side in sides):
        return None
    return average(
        store, [term for sides in pairs for term in zip((1.0, -1.0), sides, strict=True)]
    )


def _state(mean: Estimate | None) -> State:
    if mean is None or mean.half is None:
        return "missing"
    if mean.above(MATTERS) or mean.below(-MATTERS):
        return "for"
    return "against" if mean.above(-MATTERS) and mean.below(MATTERS) else "open"


def _outcome(
    verdict: Verdict, shown: Sequence[str], table: Table, every: Sequence[Runs]
) -> Outcome:
    lacking = missing(every)
    why = "runs are missing" if lacking else "the intervals do not decide it"
    return Outcome(
        verdict,
        "; ".join(shown) or ("no means to compare" if any(of.runs for of in every) else "no runs"),
        (table,),
        why if verdict == "undecided" else "",
        lacking,
    )


GAUGE = Setting("enorm", bias=True, bias_handling="gauge")
# Other ways to keep ENorm with biases from diverging.
CURES = (
    Setting("enorm", bias=True, bias_handling="keep"),
    Setting("enorm", bias=True, c=1.0),
    Setting("enorm", bias=True, c="by depth"),
)
CURES_TEST = (
    "Each other way: biases left as they are, c = 1, and at each depth the largest c up to 1.2 "
    f"that keeps rate times amplification (`bias_amplification`) to {AMPLIFIED}, which was stable "
    "in short runs at the published rates ("
    + ", ".join(f"{c:g} at p = {p}" for p, c in C_BY_DEPTH.items())
    + "). A way speaks for the claim if a run of it fails at one of the ten depths, or if the "
    "interval of gauge minus it, in the mean over them, lies above 0; against it if below. Holds "
    "with all for it, and two runs of the gauge at each depth; does not hold with one against it, "
    "or if a run of the gauge fails."
)


def best_cure(store: Store, depths: Sequence[int] = DEPTHS) -> Outcome:
    """Whether the gauge is better than every other way to train ENorm with biases.

    Args:
      store: all runs.
      depths: where they are compared; two runs of both sides are needed at each, unless one of
        the other way fails.

    Returns:
      The outcome.
    """
    precision = store.precision([GAUGE, *CURES], depths)
    runs = {s: [store.at(s, p, precision) for p in depths] for s in (GAUGE, *CURES)}
    states: dict[int, State] = {}
    shown = []
    for place, cure in enumerate(CURES):
        if failed := sum(of.failed for of in runs[cure]):
            states[place] = "for"
            shown.append(f"{failed} of {sum(len(of.runs) for of in runs[cure])} {cure.label} fail")
            continue
        mean = _mean(store, list(zip(runs[GAUGE], runs[cure], strict=True)))
        states[place] = state_of(mean)
        shown += [f"gauge minus {cure.label} {mean}"] if mean else []
    verdict = decide(states, needed=len(CURES), refuting=1)
    if any(of.failed for of in runs[GAUGE]):
        verdict = "does not hold"
    elif verdict == "holds" and any(len(of.runs) < 2 for of in runs[GAUGE]):
        verdict = "undecided"
    rows = [(str(p), *(str(runs[s][k]) for s in runs)) for k, p in enumerate(depths)]
    table = Table(("p", *(setting.label for setting in runs)), tuple(rows))
    return _outcome(verdict, shown, table, [of for own in runs.values() for of in own])


CLAIMS = [
    Claim(
        "cures",
        "Of four ways to train ENorm with biases, the gauge of the unscaled network is the best",
        "Not published: other ways than ours (`--bias gauge`) to keep it from diverging.",
        CURES_TEST,
        best_cure,
    ),
    *(
        Claim(one.name, f"{one.title} (over {MATTERS} %)", one.said, TEST, one.judge)
        for one in VARIANTS
    ),
]
