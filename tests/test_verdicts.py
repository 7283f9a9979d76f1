"""The laws of verdicts and their intervals, on made-up cells."""

import pytest
import scipy.stats

from made_up_cells import LOST, cell, cells, judge
from verdicts import outcome, readme, report
from verdicts.findings import (
    BASELINE,
    BASELINE_BIAS,
    BN,
    BOTH,
    CLAIMS,
    ENORM,
    ENORM_BIAS,
    NOTEBOOK,
)
from verdicts.intervals import contrast, prediction, spread
from verdicts.runs import DEPTHS
from verdicts.store import Store

DEEP, SHALLOW = DEPTHS[5:], DEPTHS[:5]


def test_precisions_and_settings_are_never_mixed():
    low = cells(BASELINE, 53.0)
    changes = {"precision": "bfloat16", "width": 400, "c": 1.1, "epochs": 30, "bias": True,
               "learning_rate": 0.02, "init": "he_normal", "dataset": "digits"}  # fmt: skip
    for other in ({name: value} for name, value in changes.items()):
        found = judge("enorm-baseline", cells(ENORM, 55.0, **other), low)
        assert found.verdict == "undecided", other
        assert found.reason == "runs missing at p = 1–19", other
    both = [*cells(ENORM, 55.0, precision="bfloat16"), *cells(BASELINE, 53.0, precision="bfloat16")]
    found = judge("enorm-baseline", low, both)
    assert found.verdict == "holds"
    assert {row[1] for row in found.tables[0].rows[:-1]} == {"bfloat16"}


@pytest.mark.parametrize("lost", [None, 10.0])
def test_failed_runs_are_counted_apart_and_a_side_that_only_failed_is_the_lower_one(lost):
    some = [cell(ENORM, p, [55.0, 55.1, lost]) for p in DEPTHS]
    found = judge("enorm-baseline", some, cells(BASELINE, 53.0))
    assert found.verdict == "holds"
    assert found.tables[0].rows[0][2] == "55.05 (2, 1 failed)"
    every = [cell(ENORM, p, [lost, lost]) for p in DEPTHS]
    lower = judge("enorm-baseline", every, cells(BASELINE, 53.0))
    assert lower.verdict == "does not hold"
    assert "means in this order at 0 of 10 depths" in lower.figures
    assert "2 failed" in readme.results(Store(every))


def test_all_four_methods_are_compared_in_one_precision_at_a_depth():
    narrow = [cells(s, 54.0, seeds=3) for s in (BASELINE, BN, ENORM, BOTH)]
    wide = [cells(s, 54.5, precision="bfloat16", seeds=3) for s in (BASELINE, BN, ENORM, BOTH)]
    wide[0] = cells(BASELINE, 54.5, precision="bfloat16", seeds=5)
    store = Store([result for own in (*narrow, *wide) for result in own])
    for settings in ([ENORM, BOTH], [BN], [BASELINE, ENORM]):
        assert store.precision(settings, [9]) == "bfloat16"
    assert Store([r for own in (*narrow, *wide[1:]) for r in own]).precision([BN], [9]) == "float32"


def test_divergence_with_bias_is_judged_from_the_first_epoch_of_runs_of_any_length():
    shallow = cells(ENORM_BIAS, 55.0, SHALLOW)
    short = [cell(ENORM_BIAS, p, [None, None], epochs=1) for p in DEEP]
    assert judge("bias-diverges", shallow, short).verdict == "holds"
    late = [cell(ENORM_BIAS, 19, [None, None], lost={"epoch": 3, "step": 0})]
    assert judge("bias-diverges", shallow, short[:-1], late).verdict == "does not hold"
    longer = [cell(ENORM_BIAS, p, [None, None]) for p in DEEP]  # of the same seeds
    found = judge("bias-diverges", shallow, short, longer)
    assert found.figures.startswith(f"{sum(len(r['seeds']) for r in shallow) + 10} of ")
    trained = [cell(ENORM_BIAS, 11, [12.0, None], epochs=1)]
    assert judge("bias-diverges", trained).verdict == "does not hold"
    assert judge("bias-diverges", cells(ENORM_BIAS, 10.0, SHALLOW)).verdict == "does not hold"


def test_occasional_divergence_needs_runs_that_were_lost_and_cured():
    fine = cells(ENORM, 54.0, DEEP)
    once = [cell(ENORM, 19, [54.0, 54.1], restarted=[[LOST], []])]
    assert judge("occasional", fine[:-1], once).verdict == "holds"
    uncured = [cell(ENORM, 19, [54.0, None])]
    assert judge("occasional", fine[:-1], uncured).verdict == "undecided"
    again = [cell(ENORM, 19, [54.0, None], restarted=[[], [LOST]])]
    assert judge("occasional", fine[:-1], again).verdict == "does not hold"
    assert judge("occasional", fine).reason.startswith("none diverged")
    assert judge("occasional", cells(ENORM, 54.0, DEEP, seeds=4)).verdict == "does not hold"
    assert judge("occasional", once).reason == "10 runs are needed"


def test_first_epochs_count_how_often_runs_diverge_and_nothing_else():
    fine = cells(ENORM, 54.0, DEEP)
    short = {"experiment": "divergence", "schedule": "constant", "epochs": 1}
    one = {"restarted": [[], [LOST], []], "seeds": [2, 3, 4]}
    first = [cell(ENORM, p, [28.0, 29.0, 27.0], **one, **short) for p in DEEP]
    found = judge("occasional", fine, first)
    assert found.verdict == "holds"
    assert found.figures.startswith("5 of 25 runs diverged, 5 of them cured")
    assert "epochs alone, 0 of 10 runs diverged" in found.figures
    assert found.figures.endswith("undecided")
    assert found.tables[0].rows[0][-1] == "1 of 3 diverged, 1 cured"
    dead = [cell(ENORM, 19, [10.0], restarted=[[LOST]], seeds=[k], **short) for k in (0, 2)]
    assert judge("occasional", fine, dead[:1]).verdict == "undecided"  # a longer run of its seed
    assert judge("occasional", fine, dead).verdict == "does not hold"
    low = cells(BASELINE, 53.0)
    assert judge("enorm-baseline", first, low).reason == "runs missing at p = 1–19"
    longer = [one | {"epochs": 2} for one in first]
    assert judge("occasional", fine, longer).verdict == "undecided"


def test_the_spread_of_each_rate_by_itself_is_that_of_its_own_depths():
    high = {1: [55.0, 55.2], 3: [56.0, 56.4]}  # at the published 0.1, and p = 19 at 0.05
    store = Store([cell(BOTH, p, runs) for p, runs in (high | {19: [50.0, 54.0]}).items()])
    assert BOTH.learning_rate(1) == BOTH.learning_rate(3) != BOTH.learning_rate(19)

    def variance(*depths):
        deviations = [value - sum(of) / 2 for p in depths for of in [runs[p]] for value in of]
        return sum(d**2 for d in deviations) / len(depths)

    runs = high | {19: [50.0, 54.0]}
    at = {p: store.at(BOTH, p, "float32") for p in runs}
    for p in runs:
        assert spread(store, at[p]).variance == pytest.approx(variance(1, 3, 19))
        own = spread(store.by_rates(), at[p])
        assert own.variance == pytest.approx(variance(19) if p == 19 else variance(1, 3))
        assert own.freedom == (1 if p == 19 else 2)
    apart = contrast(store.by_rates(), [(1.0, at[1]), (-1.0, at[19])])
    parts = variance(1, 3) / 2, variance(19) / 2
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2)
    assert apart.half == pytest.approx(scipy.stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5)


def test_what_comes_out_otherwise_with_the_spread_of_each_rate_is_listed():
    def changed(last):
        same = [p for p in DEPTHS if BOTH.learning_rate(p) == BOTH.learning_rate(1)]
        store = Store([*cells(BOTH, 55.0, same), cell(BOTH, 19, last)])
        outcomes = [(claim, claim.judge(store)) for claim in CLAIMS]
        text = report.claims_text(store, outcomes, "this folder")
        return text.partition("figures then")[2].partition("<a id")[0]

    assert "](#both-19) | holds | undecided | p = 9–13 minus p = 19:" in changed([53.5, 54.5])
    assert "both-19" not in changed([53.95, 54.05])


def test_the_interval_is_welchs_where_runs_lie_at_one_depth():
    one, two = [54.0, 55.0, 55.5], [52.0, 52.2]
    store = Store([cell(ENORM, 9, one), cell(BN, 9, two)])
    sides = [store.at(setting, 9, "float32") for setting in (ENORM, BN)]
    found = contrast(store, [(1.0, sides[0]), (-1.0, sides[1])])
    expected = scipy.stats.ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
    assert found.value - found.half == pytest.approx(expected.low)
    assert found.value + found.half == pytest.approx(expected.high)


def test_a_prediction_is_wider_the_fewer_runs_it_is_for_and_weights_enter_squared():
    store = Store([cell(ENORM, 9, [54.0, 55.0, 55.5]), cell(ENORM, 1, [57.0, 58.0, 58.5])])
    at = [store.at(ENORM, depth, "float32") for depth in (9, 1)]
    s, t = (7 / 12) ** 0.5, scipy.stats.t.ppf(0.975, 4)  # both depths have this deviation
    for count in (1, 2):
        assert prediction(store, at[0], count).half == pytest.approx(
            t * s * (1 / 3 + 1 / count) ** 0.5
        )
    halves = contrast(store, [(0.5, at[0]), (0.5, at[1])])
    assert halves.half == pytest.approx(t * s * (2 * 0.25 / 3) ** 0.5)


def test_what_lies_within_the_margin_is_not_below_and_not_above():
    equal = [cells(setting, 54.0) for setting in (ENORM, BASELINE, BOTH, BN)]
    assert judge("enorm-baseline", *equal).verdict == "holds"
    assert judge("both-bn", *equal).verdict == "undecided"
    assert judge("depth-both", *equal).verdict == "holds"
    assert judge("depth-baseline", *equal).verdict == "undecided"


def test_where_both_schedules_explain_the_point_nothing_is_decided():
    found = judge("notebook", cells(BOTH, 53.7), cells(NOTEBOOK, 53.7))
    assert found.verdict == "undecided"
    assert found.reason == "both explain it"


def test_a_mean_over_too_few_depths_decides_nothing():
    found = judge("bias-baseline", cells(BASELINE_BIAS, 55.0), cells(BASELINE, 53.0, DEPTHS[:4]))
    assert found.verdict == "undecided"
    assert found.reason == "needs two runs on both sides, at 5 depths"


def test_seeds_count_once_the_restarted_one_first():
    store = Store([cell(ENORM, 9, [55.0, None]), cell(ENORM, 9, [55.0, 54.0], restarts=1)])
    assert store.at(ENORM, 9, "float32").accuracies == [55.0, 54.0]


def test_depths_for_and_against_decide():
    assert outcome.decide({1: "for", 3: "open"}, needed=2, refuting=1) == "undecided"
    assert outcome.decide({1: "for", 3: "against"}, needed=1, refuting=1) == "does not hold"
    assert outcome.depths_text([19, 1, 9, 5, 7]) == "1, 5–9, 19"


def test_a_search_of_rates_is_no_run_of_the_study():
    search = cell(ENORM, 9, [50.0, 51.0, 52.0, 53.0], seeds=[0, 1], rates=[0.1, 0.01])
    found = judge("enorm-baseline", [search], cells(BASELINE, 53.0))
    assert found.reason == "runs missing at p = 1–19"
    assert judge("bfloat16", [search]).figures == "no pairs"
