"""The verdicts on made-up runs, and that the committed ones are what the cells say."""

import doctest

import pytest
import scipy.stats

import claims
from enorm_jax import cli
from enorm_jax.errors import InputError
from enorm_jax.results import write_json
from verdicts import outcome, readme, report
from verdicts.findings import (
    BASELINE,
    BASELINE_BIAS,
    BN,
    BOTH,
    CLAIMS,
    ENORM,
    ENORM_BIAS,
    GAUGE,
    NOTEBOOK,
    SOFTMAX,
)  # fmt: skip
from verdicts.intervals import contrast
from verdicts.runs import DEPTHS
from verdicts.store import Store

LOST = {"epoch": 0, "step": 38}
DEEP, SHALLOW = DEPTHS[5:], DEPTHS[:5]


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


def judge(name, *runs):
    (claim,) = [claim for claim in CLAIMS if claim.name == name]
    return claim.judge(Store([result for own in runs for result in own]))


def test_the_committed_files_are_what_the_committed_cells_say():
    for path, text in claims.written(claims.RESULTS).items():
        assert path.read_text(encoding="utf-8") == text, f"run experiments/claims.py: {path.name}"


FOUR = [(BOTH, 57.0), (ENORM, 56.0), (BN, 55.0), (BASELINE, 54.0)]
PLANTED = {
    "enorm-baseline": ([(ENORM, 55.0), (BASELINE, 53.0)], [(ENORM, 52.0), (BASELINE, 53.0)]),
    "both-bn": ([(BOTH, 55.0), (BN, 53.0)], [(BOTH, 53.0), (BN, 55.0)]),
    "both-best": (FOUR, [(BOTH, 55.5), *FOUR[1:]]),
    "order": (FOUR, [(BOTH, 57.0), (ENORM, 55.0), (BN, 56.0), (BASELINE, 54.0)]),
    "both-19": ([(BOTH, lambda p: 57.0 - 2 * (p == 19))], [(BOTH, lambda p: 57.0 + (p == 19))]),
    "notebook": ([(BOTH, 56.0), (NOTEBOOK, 53.7)], [(BOTH, 53.7), (NOTEBOOK, 51.0)]),
    "gauge": ([(GAUGE, 55.0)], [(GAUGE, lambda p: 55.0 if p < 19 else 10.0)]),
    "bias-baseline": ([(BASELINE_BIAS, 54.0), (BASELINE, 53.0)],
                      [(BASELINE_BIAS, 53.0), (BASELINE, 54.0)]),
    "bias-enorm": ([(ENORM_BIAS, 54.0), (ENORM, 53.0)], [(ENORM_BIAS, 53.0), (ENORM, 54.0)]),
    "softmax": ([(SOFTMAX, 10.0)], [(SOFTMAX, 50.0)]),
    "reproduced": ([(s, s.published) for s in (BASELINE, BN, ENORM, BOTH)],
                   [(s, lambda p: 50.0) for s in (BASELINE, BN, ENORM, BOTH)]),
    "reproduced-bias": ([(BASELINE_BIAS, BASELINE_BIAS.published),
                         (ENORM_BIAS, lambda p: ENORM_BIAS.published(p) if p < 10 else 0.0)],
                        [(BASELINE_BIAS, 50.0), (ENORM_BIAS, 50.0)]),
    "depth-baseline": ([(BASELINE, lambda p: 55 - p / 5)], [(BASELINE, lambda p: 55 + p / 5)]),
    "depth-both": ([(BOTH, 55.0)], [(BOTH, lambda p: 55 - p / 5)]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_effect_holds_its_opposite_does_not_and_one_seed_decides_nothing(name):
    planted, opposite = PLANTED[name]
    assert judge(name, *(cells(*side) for side in planted)).verdict == "holds"
    assert judge(name, *(cells(*side) for side in opposite)).verdict == "does not hold"
    single = judge(name, *(cells(*side, seeds=1) for side in planted))
    assert single.verdict == "undecided"
    assert "1 run at p = " in single.missing


def test_every_claim_says_what_is_missing_where_nothing_was_run():
    for claim in CLAIMS:
        found = claim.judge(Store([]))
        assert found.verdict == "undecided"
        assert found.missing, claim.name


def test_depths_that_lack_runs_are_named():
    found = judge("enorm-baseline", cells(ENORM, 55.0), cells(BASELINE, 53.0, DEPTHS[:1], 1))
    assert found.reason == "n = 1 at p = 1; no runs at p = 3–19"
    assert found.missing == "Baseline: 2 runs at p = 3–19, 1 run at p = 1"


def test_precisions_and_settings_are_never_mixed():
    low = cells(BASELINE, 53.0)
    changes = {"precision": "bfloat16", "width": 400, "c": 1.1, "epochs": 30, "bias": True,
               "learning_rate": 0.02, "init": "he_normal", "dataset": "digits"}  # fmt: skip
    for other in ({name: value} for name, value in changes.items()):
        found = judge("enorm-baseline", cells(ENORM, 55.0, **other), low)
        assert found.verdict == "undecided", other
        assert found.reason == "no runs at p = 1–19", other
    both = [*cells(ENORM, 55.0, precision="bfloat16"), *cells(BASELINE, 53.0, precision="bfloat16")]
    found = judge("enorm-baseline", low, both)
    assert found.verdict == "holds"
    assert {row[1] for row in found.tables[0].rows[:-1]} == {"bfloat16"}


def test_diverged_runs_are_counted_and_a_side_that_only_diverged_is_the_lower_one():
    some = [cell(ENORM, p, [55.0, 55.1, None]) for p in DEPTHS]
    found = judge("enorm-baseline", some, cells(BASELINE, 53.0))
    assert found.verdict == "holds"
    assert found.tables[0].rows[0][2] == "55.05 (2, 1 diverged)"
    lost = [cell(ENORM, p, [None, None]) for p in DEPTHS]
    assert judge("enorm-baseline", lost, cells(BASELINE, 53.0)).verdict == "does not hold"
    assert "2 diverged" in readme.results(Store(lost))


def test_divergence_with_bias_is_judged_from_the_first_epoch_of_runs_of_any_length():
    shallow = cells(ENORM_BIAS, 55.0, SHALLOW)
    short = [cell(ENORM_BIAS, p, [None, None], epochs=1) for p in DEEP]
    assert judge("bias-diverges", shallow, short).verdict == "holds"
    late = [cell(ENORM_BIAS, 19, [None, None], lost={"epoch": 3, "step": 0})]
    assert judge("bias-diverges", shallow, short[:-1], late).verdict == "does not hold"
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


def test_bfloat16_is_judged_by_the_rule_of_its_own_script():
    for shift, verdict in ((0.1, "holds"), (0.9, "does not hold")):
        runs = [
            cells(setting, mean, (1, 9, 19), 3, precision=precision)
            for setting in (BASELINE, BN, ENORM, BOTH)
            for precision, mean in (("float32", 54.0), ("bfloat16", 54.0 + shift))
        ]
        assert judge("bfloat16", *runs).verdict == verdict
        assert judge("bfloat16", *runs[1:]).verdict == "undecided"


def test_the_interval_is_welchs_where_runs_lie_at_one_depth():
    one, two = [54.0, 55.0, 55.5], [52.0, 52.2]
    store = Store([cell(ENORM, 9, one), cell(BN, 9, two)])
    sides = [store.at(setting, 9, "float32") for setting in (ENORM, BN)]
    found = contrast(store, [(1.0, sides[0]), (-1.0, sides[1])])
    expected = scipy.stats.ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
    assert found.value - found.half == pytest.approx(expected.low)
    assert found.value + found.half == pytest.approx(expected.high)


def test_seeds_count_once_the_restarted_one_first():
    store = Store([cell(ENORM, 9, [55.0, None]), cell(ENORM, 9, [55.0, 54.0], restarts=1)])
    assert store.at(ENORM, 9, "float32").accuracies == [55.0, 54.0]


def test_depths_for_and_against_decide():
    assert outcome.decide({1: "for", 3: "open"}, needed=2, refuting=1) == "undecided"
    assert outcome.decide({1: "for", 3: "against"}, needed=1, refuting=1) == "does not hold"
    assert outcome.depths_text([19, 1, 9, 5, 7]) == "1, 5–9, 19"


@pytest.mark.parametrize("module", [outcome, readme, report])
def test_the_examples_in_docstrings_are_right(module):
    assert doctest.testmod(module).failed == 0


def test_the_command_writes_checks_and_answers_faults_with_one_line(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["claims.py", *map(str, arguments)])
        cli.run(claims.main)

    for fault in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(SystemExit) as stopped:
            run(fault)
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    write_json(tmp_path / "cell.json", cell(ENORM, 9, [55.0]))
    with pytest.raises(SystemExit, match=r"CLAIMS\.md is not what the cells say"):
        run(tmp_path, "--check")
    run(tmp_path)
    run(tmp_path, "--check")
    with pytest.raises(InputError, match="verdicts"):
        readme.updated("no markers", {"verdicts": ""})
