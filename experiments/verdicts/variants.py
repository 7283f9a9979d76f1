"""What of the study's setting matters: claims on settings that differ from it in one thing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from enorm_jax.methods import STUDY, make_method
from verdicts.intervals import Estimate
from verdicts.ordering import average, difference
from verdicts.outcome import Claim, Outcome, State, Table, decide, missing
from verdicts.runs import C_BY_DEPTH, DEPTHS, Runs, Setting
from verdicts.store import Store

AT = (3, 9, 15)  # depths
LARGE, SMALL = 0.5, 1.0  # percent: a mean that matters, and an interval that leaves no room for one
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
    f"method speaks for the claim if the mean is {LARGE} % or more, up or down, and its interval "
    f"leaves 0 out; against it if the mean is less and its interval lies within ±{SMALL:g} %. "
    "Holds with one method for it, does not hold with all against it."
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
        "A constant rate with the best epoch on held-out images, instead of linear decay, matters",
        "Named by the study; a fifth of the training images is held out to choose the epoch.",
        ({"schedule": "constant", "select": "best", "fold": "0/5"},),
    ),
    Variant(
        "biases",
        "Biases matter",
        "The study trains without, and with for comparison. ENorm's are in the gauge here.",
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
    """Whether a change makes a difference of half a percent for one method at least.

    Args:
      store: all runs.
      pairs: the study's setting and the changed one.
      depths: over which the mean is taken; both settings need two runs at each.

    Returns:
      The outcome.
    """
    states: dict[int, State] = {}
    rows, every, shown = [], [], []
    for place, (usual, other) in enumerate(pairs):
        cells, terms = [], []
        for depth in depths:
            precision = store.precision([other, usual], [depth])
            sides = [store.at(setting, depth, precision) for setting in (other, usual)]
            every += sides
            cells += [str(sides[0]), str(difference(store, *sides) or "–")]
            if all(len(side.accuracies) > 1 for side in sides):
                terms += list(zip((1.0, -1.0), sides, strict=True))
        complete = len(terms) == 2 * len(depths)
        mean = average(store, terms) if complete else None
        states[place] = _state(mean)
        rows.append((other.label, *cells, str(mean or "–"), states[place]))
        shown += [f"{other.label} {mean}"] if mean else []
    columns = (text for p in depths for text in (f"p = {p}", "change"))
    table = Table(("setting", *columns, "mean change", "speaks"), tuple(rows))
    verdict = decide(states, needed=1, refuting=len(pairs))
    lacking = missing(every)
    why = "runs are missing" if lacking else "the intervals do not decide it"
    return Outcome(
        verdict,
        "; ".join(shown) or "no runs",
        (table,),
        why if verdict == "undecided" else "",
        lacking,
    )


def _state(mean: Estimate | None) -> State:
    if mean is None or mean.half is None:
        return "missing"
    if abs(mean.value) >= LARGE:
        return "for" if mean.above() or mean.below() else "open"
    return "against" if abs(mean.value) + mean.half < SMALL else "open"


GAUGE = Setting("enorm", bias=True, bias_handling="gauge")
# Other ways to keep ENorm with biases from diverging.
CURES = (
    Setting("enorm", bias=True, bias_handling="keep"),
    Setting("enorm", bias=True, c=1.0),
    Setting("enorm", bias=True, c="by depth"),
)
CURES_TEST = (
    "Each other way: biases left as they are, c = 1, and at each depth the largest c up to 1.2 at "
    "which rate times amplification is 35 or less ("
    + ", ".join(f"{c:g} at p = {p}" for p, c in C_BY_DEPTH.items())
    + "). One way speaks for the claim if it loses a run at some depth, or if the interval of "
    "gauge minus it, in the mean over the depths, lies above 0; against it if below. Holds with "
    "all for it and no run of the gauge lost, does not hold with one against it."
)


def best_cure(store: Store, depths: Sequence[int] = DEPTHS) -> Outcome:
    """Whether the gauge is better than every other way to train ENorm with biases.

    Args:
      store: all runs.
      depths: where they are compared; two runs are needed at each.

    Returns:
      The outcome.
    """
    precision = store.precision([GAUGE], depths)
    runs = {s: [store.at(s, p, precision) for p in depths] for s in (GAUGE, *CURES)}
    states: dict[int, State] = {}
    shown = []
    for place, cure in enumerate(CURES):
        lost = sum(of.diverged for of in runs[cure])
        terms: list[tuple[float, Runs]] = []
        for gauge, own in zip(runs[GAUGE], runs[cure], strict=True):
            if min(len(gauge.accuracies), len(own.accuracies)) > 1:
                terms += [(1.0, gauge), (-1.0, own)]
        complete = len(terms) == 2 * len(depths)
        mean = average(store, terms)
        states[place] = "for" if lost else "missing"
        if complete and not lost and mean:
            states[place] = "for" if mean.above() else "against" if mean.below() else "open"
        if lost:
            shown.append(f"{cure.label} loses {lost} of {sum(len(r.runs) for r in runs[cure])}")
        elif mean:
            shown.append(f"gauge − {cure.label} {mean}")
    if any(of.diverged for of in runs[GAUGE]):
        states[len(CURES)] = "against"
    verdict = decide(states, needed=len(CURES), refuting=1)
    if not all(len(of.runs) > 1 for of in runs[GAUGE]) and verdict == "holds":
        verdict = "undecided"
    rows = [(str(p), *(str(runs[s][k]) for s in runs)) for k, p in enumerate(depths)]
    lacking = missing(of for own in runs.values() for of in own)
    why = "runs are missing" if lacking else "the intervals do not decide it"
    return Outcome(
        verdict,
        "; ".join(shown) or "no runs",
        (Table(("p", *(setting.label for setting in runs)), tuple(rows)),),
        why if verdict == "undecided" else "",
        lacking,
    )


CLAIMS = [
    Claim(
        "cures",
        "Of four ways to train ENorm with biases, the gauge of the unscaled network is the best",
        "Not published: other ways than ours (`--bias gauge`) to keep it from diverging.",
        CURES_TEST,
        best_cure,
    ),
    *(Claim(one.name, one.title, one.said, TEST, one.judge) for one in VARIANTS),
]
