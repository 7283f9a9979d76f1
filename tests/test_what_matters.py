import dataclasses

import jax
import jax.numpy as jnp
import pytest

import what_matters
from enorm_jax import FullyConnected, bias_amplification, published
from made_up_cells import cell, cells, judge
from verdicts.runs import C_BY_DEPTH, DEPTHS, C, Setting
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


def runs(shift, method="bn", others=0.0, **settings):
    """The study's runs of four methods, and those of He's normal initialization, shifted."""
    return [
        cells(setting, 54.0 + by, AT, **settings)
        for usual, other in NORMAL.pairs()
        for setting, by in ((usual, 0.0), (other, shift if usual.method == method else others))
    ]


def test_it_matters_if_one_method_gains_or_loses_half_a_percent():
    assert judge("he-normal", *runs(0.6)).verdict == "holds"
    assert judge("he-normal", *runs(-0.6)).verdict == "holds"
    assert judge("he-normal", *runs(0.4)).verdict == "does not hold"
    few = judge("he-normal", *runs(0.6, seeds=1))
    assert few.verdict == "undecided"
    assert "1 run at p = 3, 9, 15" in few.missing


def test_it_is_undecided_where_runs_scatter_or_a_depth_has_none():
    scattered = [
        [cell(setting, p, [54.0 + by, 56.0 + by]) for p in AT]
        for usual, other in NORMAL.pairs()
        for setting, by in ((usual, 0.0), (other, 0.7))
    ]
    assert judge("he-normal", *scattered).verdict == "undecided"
    short = [own[:2] for own in runs(0.6)]
    assert judge("he-normal", *short).verdict == "undecided"


def cures(gauge=55.0, others=54.0, lost=None):
    """Runs of all ways; at p = 9 one run of the lost way diverged."""
    ways = {GAUGE: gauge} | dict.fromkeys(CURES, others)
    found = {setting: cells(setting, mean) for setting, mean in ways.items()}
    if lost is not None:
        found[lost][4] = cell(lost, DEPTHS[4], [None, 60.0])
    return judge("cures", *found.values())


def test_the_gauge_is_best_if_every_other_way_is_below_it_or_loses_runs():
    assert cures().verdict == "holds"
    assert cures(others=56.0).verdict == "does not hold"
    assert cures(others=55.0).verdict == "undecided"
    worse = cures(lost=CURES[0])
    assert worse.verdict == "holds"
    assert "keep) loses 1 of 20" in worse.figures
    assert cures(lost=GAUGE).verdict == "does not hold"
    assert judge("cures", cells(GAUGE, 55.0)).verdict == "undecided"


@pytest.mark.slow
@pytest.mark.parametrize("depth", C_BY_DEPTH)
def test_c_by_depth_is_the_largest_that_keeps_rate_times_amplification_to_35(depth):
    model = FullyConnected(depth=depth)
    params = model.init(jax.random.key(0), jnp.zeros((1, 3072)), train=False)["params"]
    amplification = jax.jit(lambda c: bias_amplification(params, c))
    rate, c = published.learning_rate("enorm", depth), C_BY_DEPTH[depth]
    assert rate * amplification(c) <= 35 < rate * amplification(c + 0.01)
    assert Setting("enorm", c="by depth").cell(depth, "float32").c == c < C
    assert Setting("enorm", c="by depth").cell(7, "float32").c == C


def test_the_command_trains_what_is_named_once_and_tabulates_it(run_script, tmp_path):
    small = ("--dataset", "digits", "--depths", "1", "--epochs", "1", "--seeds", "2")
    small += ("--width", "20", "--workers", "1", "--out", tmp_path)
    status, out, _ = run_script("experiments/what_matters.py", "of-norms", "simultaneous", *small)
    assert status == 0
    assert "enorm+bn p=1 of_norms" in out
    assert "enorm p=1 simultaneous" in out
    assert len(list(tmp_path.glob("fc-digits-*.json"))) == 3
    status, out, err = run_script("experiments/what_matters.py", "images", *small)
    assert status == 2
    assert err.count("\n") == 1
    assert "--train-images 40960 is more than the 1437" in err


def test_all_changes_are_one_list_of_cells_without_repeats():
    args = what_matters.parser().parse_args(["--precision", "float32"])
    wanted = what_matters.cells(args)
    assert len({dataclasses.replace(one, seeds=()) for one in wanted}) == len(wanted)
    named = what_matters.parser().parse_args(["c", "--precision", "float32"])
    assert {one.c for one in what_matters.cells(named)} == {1.0, 1.05, 1.1, 1.4}
