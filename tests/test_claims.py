"""The claims on planted effects, and that the committed verdicts are what the cells say."""

import doctest

import pytest

import claims
from enorm_jax import cli
from enorm_jax.errors import InputError
from enorm_jax.results import write_json
from made_up_cells import cell, cells, judge
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
)
from verdicts.original import GN, PATH, SEVEN, WN_BN
from verdicts.runs import DEPTHS
from verdicts.store import Store


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
    "wn-bn-shallow": ([(s, 54.0 + (s == WN_BN)) for s in SEVEN],
                      [(s, 54.0 + (s == BOTH)) for s in SEVEN]),
    "both-deep": ([(s, 54.0 + (s == BOTH)) for s in SEVEN],
                  [(s, 54.0 + (s == WN_BN)) for s in SEVEN]),
    "gn-bn": ([(GN, 54.0), (BN, 53.0)], [(GN, 53.0), (BN, 54.0)]),
    "enorm-path": ([(ENORM, 54.0), (PATH, 53.0)], [(ENORM, 53.0), (PATH, 54.0)]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_effect_holds_its_opposite_does_not_and_one_seed_decides_nothing(
    name, monkeypatch
):
    monkeypatch.setattr("verdicts.runs.rate_of", lambda cell: 0.05)  # of any method
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
    assert found.reason == "n = 1 at p = 1; runs missing at p = 3–19"
    assert found.missing == "Baseline: 2 runs at p = 3–19, 1 run at p = 1"


def test_bfloat16_is_judged_by_the_rule_of_its_own_script():
    for shift, verdict in ((0.1, "holds"), (0.9, "does not hold")):
        runs = [
            cells(setting, mean, (1, 9, 19), 3, precision=precision)
            for setting in (BASELINE, BN, ENORM, BOTH)
            for precision, mean in (("float32", 54.0), ("bfloat16", 54.0 + shift))
        ]
        assert judge("bfloat16", *runs).verdict == verdict
        assert judge("bfloat16", *runs[1:]).verdict == "undecided"


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
