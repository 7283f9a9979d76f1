"""The page on scale says what its measurements say."""

import copy
import json
import pathlib

import pytest
import scale
import scale_page

from enorm_jax.methods import STUDY
from enorm_jax.results import read_results

ROOT = pathlib.Path(__file__).parents[1]
FOUND = json.loads(scale.MEASURED.read_text())
BENCHMARK = json.loads(scale.BENCHMARK.read_text())


def test_the_page_is_what_the_measurements_say():
    page = scale_page.written(FOUND, BENCHMARK, read_results(scale.MEASURED.parent))
    assert (ROOT / "experiments" / "SCALE.md").read_text() == page


def test_the_study_on_a_gpu_takes_what_its_cells_took():
    def cell(method, depth, seconds, **other):
        return {
            "experiment": "fc",
            "device": {"platform": "gpu"},
            "diverged": [None, None],
            "method": method,
            "depth": depth,
            "seconds_per_epoch": seconds,
        } | other

    cells = [
        cell(method, depth, seconds)
        for method in STUDY
        for depth, seconds in [(3, 1.0), (3, 9.0), (3, 90.0), (7, 1.0)]
    ]
    cells += [
        cell("bn", 7, 1e6, device={"platform": "cpu"}),
        cell("bn", 7, 1e6, diverged=[None, {"epoch": 0, "step": 3}]),
        cell("bn", 7, 1e6, experiment="conv"),
    ]
    trained = scale_page.gpu_cells(cells)
    each = [9.0, 9.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]  # p = 1, 3, ..., 19
    expected = [(seconds, 60) for seconds in each] * 2 * len(STUDY)
    assert scale_page.study_on_gpu(trained) == expected


def test_an_engines_cost_is_a_line_through_few_and_many_cells():
    few, many = scale.SIZES
    runs = {
        size: [
            {
                "seconds": 10.0 + 2.5 * size + jitter,
                "training_seconds": [1.5] * size,
                "compile_seconds": [0.0] * size,
            }
            for jitter in (-1, 0, 40)  # a median does not see the last
        ]
        for size in (few, many)
    }
    fitted = scale.fitted(runs)
    assert fitted["seconds_per_cell"] == pytest.approx(2.5)
    assert fitted["start_seconds"] == pytest.approx(10.0)
    assert fitted["cells_per_hour"] == 1440


@pytest.mark.slow
def test_an_engine_pays_sooner_with_longer_cells_and_never_if_it_costs_too_much():
    def least(seconds, found=FOUND):
        return scale_page.break_even(found, "ray", 10, seconds)

    assert least(600.0) <= least(60.0)
    dear = copy.deepcopy(FOUND)
    dear["engines"]["ray"]["seconds_per_cell"] = 1e6
    assert least(60.0, dear) is None
