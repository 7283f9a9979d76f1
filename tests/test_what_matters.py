import jax
import jax.numpy as jnp
import pytest

import what_matters
from enorm_jax import FullyConnected, bias_amplification, published
from enorm_jax.errors import InputError
from made_up_cells import cell, cells, judge
from verdicts.runs import AMPLIFIED, C_BY_DEPTH, DEPTHS, C, Setting, c_by_depth
from verdicts.variants import AT, CURES, GAUGE, VARIANTS

NORMAL = next(variant for variant in VARIANTS if variant.name == "he-normal")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_variant_differs_from_the_study_in_what_it_says_and_nothing_else(variant):
    for (usual, other), change in zip(
        variant.pairs(), [c for c in variant.changes for _ in variant.methods], strict=True
    ):
        before, after = (setting.cell(9, "float32").settings() for setting in (usual, other))
        differing = {key: after[key] for key in after if after[key] != before[key]}
        assert differing.pop("bias_handling", "gauge") == "gauge"
        assert differing == change
        assert other.label != usual.label
        assert not other.published_so or variant.name == "biases"


def runs(shift, method="bn", others=0.0, accuracies=None, **settings):
    """The study's runs of four methods, and of He's normal initialization, one of them shifted."""
    found = []
    for usual, other in NORMAL.pairs():
        by = shift if usual.method == method else others
        found += [cells(usual, 54.0, AT, **settings), cells(other, 54.0 + by, AT, **settings)]
        if accuracies is not None and usual.method == method:
            found[-1][1] = cell(other, AT[1], accuracies)
    return found


def test_it_matters_if_one_method_changes_by_more_than_half_a_percent():
    assert judge("he-normal", *runs(0.8)).verdict == "holds"
    assert judge("he-normal", *runs(-0.8)).verdict == "holds"
    assert judge("he-normal", *runs(0.2)).verdict == "does not hold"
    assert judge("he-normal", *runs(0.5)).verdict == "undecided"  # an interval on both sides
    few = judge("he-normal", *runs(0.8, seeds=1))
    assert few.verdict == "undecided"
    assert "1 run at p = 3, 9, 15" in few.missing


def test_it_is_undecided_where_runs_scatter_or_a_depth_has_none():
    scattered = [
        [cell(setting, p, [54.0 + by, 56.0 + by]) for p in AT]
        for usual, other in NORMAL.pairs()
        for setting, by in ((usual, 0.0), (other, 0.7))
    ]
    assert judge("he-normal", *scattered).verdict == "undecided"
    short = judge("he-normal", *(own[:2] for own in runs(0.8)))
    assert short.verdict == "undecided"
    assert short.figures == "no means to compare"


@pytest.mark.parametrize("accuracies", [[None, None], [54.0, 10.0]])
def test_a_change_after_which_runs_fail_matters_and_the_failed_are_in_no_mean(accuracies):
    found = judge("he-normal", *runs(0.0, accuracies=accuracies))
    assert found.verdict == "holds"
    failed = sum(value != 54.0 for value in accuracies)
    assert f"BN (init he normal): {failed} run" in found.figures
    row = found.tables[0].rows[1]
    assert row[-1] == "for"
    assert f"{failed} failed)" in row[3]
    assert float(row[2].partition("± ")[2]) < 1  # at p = 3, where none failed


def cures(gauge=55.0, others=54.0, failing=None):
    """Runs of all ways; at p = 9 one run of one of them diverged and one learned nothing."""
    ways = {GAUGE: gauge} | dict.fromkeys(CURES, others)
    found = {setting: cells(setting, mean) for setting, mean in ways.items()}
    if failing is not None:
        found[failing][4] = cell(failing, DEPTHS[4], [None, 10.0, 60.0])
    return found


def test_the_gauge_is_best_if_every_other_way_is_below_it_or_fails():
    def judged(**given):
        return judge("cures", *cures(**given).values())

    assert judged().verdict == "holds"
    assert judged(others=56.0).verdict == "does not hold"
    assert judged(others=55.0).verdict == "undecided"
    worse = judged(others=54.0, failing=CURES[0])
    assert worse.verdict == "holds"
    assert "2 of 21 ENorm with bias (keep) fail" in worse.figures
    assert judged(failing=GAUGE).verdict == "does not hold"


def test_the_gauge_is_not_best_before_it_has_run_everywhere():
    found = cures()
    found[GAUGE] = found[GAUGE][:9]
    assert judge("cures", *found.values()).verdict == "undecided"
    assert judge("cures", found[GAUGE]).verdict == "undecided"
    failed = [[cell(cure, DEPTHS[4], [None, None])] for cure in CURES]
    assert judge("cures", found[GAUGE], *failed).verdict == "undecided"


@pytest.mark.slow
@pytest.mark.parametrize("depth", [7, *C_BY_DEPTH])
def test_c_by_depth_is_the_largest_that_keeps_rate_times_amplification_stable(depth):
    model = FullyConnected(depth=depth)
    params = model.init(jax.random.key(0), jnp.zeros((1, 3072)), train=False)["params"]
    amplification = jax.jit(lambda c: bias_amplification(params, c))
    rate, c = published.learning_rate("enorm", depth), C_BY_DEPTH.get(depth, C)
    assert rate * amplification(c) <= AMPLIFIED
    assert c == C or rate * amplification(c + 0.01) > AMPLIFIED
    assert Setting("enorm", c="by depth").cell(depth, "float32").c == c


def test_between_known_depths_c_is_that_of_the_next_deeper_one():
    assert [c_by_depth(p) for p in (1, 7, 8, 9, 10, 18)] == [1.2, 1.2, 1.15, 1.15, 1.1, 1.05]
    with pytest.raises(InputError, match="up to 19"):
        c_by_depth(20)


@pytest.mark.slow
def test_the_command_trains_what_is_named_once_and_tabulates_it(run_script, tmp_path):
    small = ("--dataset", "digits", "--depths", "1", "--epochs", "1", "--seeds", "2")
    small += ("--width", "20", "--workers", "1", "--out", tmp_path)
    named = ("of-norms", "simultaneous", "of-norms")
    status, out, _ = run_script("experiments/what_matters.py", *named, *small)
    assert status == 0
    assert "enorm+bn p=1 of_norms" in out
    assert "enorm p=1 simultaneous" in out
    assert len(list(tmp_path.glob("fc-digits-*.json"))) == 3
    status, out, err = run_script("experiments/what_matters.py", "images", *small)
    assert status == 2
    assert err.count("\n") == 1
    assert "--train-images 40960 is more than the 1437" in err


def test_all_changes_are_trained_once_and_those_named_alone():
    def trained(*arguments):
        args = what_matters.parser().parse_args([*arguments, "--precision", "float32"])
        return what_matters.cells(args)

    everything, twice = trained(), trained("c", "c", "of-norms")
    assert len({one.stem for one in everything}) == len(everything)
    assert {one.c for one in twice} == {1.0, 1.05, 1.1, 1.2, 1.4}
    assert len(twice) == 3 * (4 * 2 + 1)
    assert set(twice) <= set(everything)
