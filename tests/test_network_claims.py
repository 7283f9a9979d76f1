"""Claims on convolutional networks, micro-batches and mechanisms, on made-up runs."""

import functools

import jax
import jax.numpy as jnp
import pytest
import scipy.stats

from enorm_jax import data
from enorm_jax.recipe import hyperparameters, init_states
from enorm_jax.results import write_json
from enorm_jax.sweep import recipe_of
from made_up_cells import cell as of_study
from made_up_cells import judge_store
from verdicts import networks
from verdicts.sides import paired
from verdicts.store import Store

CONV = ("baseline", "bn", "gn", "enorm", "enorm+bn")
MICRO = ("bn", "gn", "ws+gn", "ws+bcn")


def judge(name, *args):
    return judge_store(name, Store(*args))


def cell(its, accuracies):
    """A finished cell with a seed for each accuracy."""
    return its.settings() | {"seeds": [*range(len(accuracies))], "test_accuracy": accuracies}


def around(mean, seeds=3):
    return [mean + 0.1 * (seed - (seeds - 1) / 2) for seed in range(seeds)]


def conv(**means):
    """Cells of methods, ``_`` for ``+``, 70 % where no mean is given."""
    given = {name.replace("_", "+"): mean for name, mean in means.items()}
    return [
        cell(networks.conv_cell(method, "float32"), around(given.get(method, 70.0)))
        for method in CONV
    ]


def micro(means):
    """Cells of methods and batch sizes, 70 % where no mean is given."""
    return [
        cell(networks.micro_cell(method, size, "bfloat16"), around(means.get((method, size), 70.0)))
        for method in MICRO
        for size in (1, 2, 64)
    ]


def measured(what, key, numbers, **rest):
    """A file of mechanisms.py: three runs of two epochs for each method or variant."""
    series = {}
    for name, number in numbers.items():
        method = "ws+gn" if what == "standardization" else name
        runs = [[{key: value} | rest, {key: value} | rest] for value in number]
        settings = networks.measured_cell(what, method).settings() | {"seeds": [*range(len(runs))]}
        series[name] = {"settings": settings, "runs": runs}
    return {"experiment": "mechanisms", "what": what, "series": series}


PLANTED = {  # a claim: runs of which it holds, runs of which it does not
    "conv-enorm-bn": (conv(enorm=71.0), conv(enorm=69.0)),
    "conv-enorm-baseline": (conv(baseline=65.0), conv(baseline=75.0)),
    "conv-both-bn": (conv(enorm_bn=72.0), conv(enorm_bn=68.0)),
    "micro-bn": (micro({("bn", 1): 20.0, ("bn", 2): 50.0}), micro({("bn", 2): 50.0})),
    "micro-ws": (micro({("ws+gn", 1): 68.0}), micro({("ws+gn", 1): 62.0})),
    "micro-ws-bn": (micro({}), micro({("ws+bcn", 1): 69.0})),
    "micro-ws-gn": (
        micro({(name, size): mean for size in (1, 2)
               for name, mean in (("gn", 60.0), ("ws+gn", 65.0))}),
        micro({("gn", 1): 75.0}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_effect_holds_its_opposite_does_not_and_nothing_decides_nothing(name):
    planted, opposite = PLANTED[name]
    assert judge(name, planted).verdict == "holds"
    assert judge(name, opposite).verdict == "does not hold"
    single = [result | {"seeds": [0], "test_accuracy": [70.0]} for result in planted]
    found = judge(name, single)
    assert found.verdict == "undecided"
    assert found.reason == "runs are missing"
    other = [result | {"learning_rate": 0.3} for result in planted]
    assert judge(name, other).figures == "no runs"


def test_what_is_measured_inside_networks_decides_in_the_direction_that_is_claimed():
    units = {"bn": -0.5, "gn": -2.0, "ln": -2.5, "ws+gn": -1.0, "bcn": -0.8}
    layers = {name: [[v + d, v - d] for d in (0.1, 0.2, 0.3)] for name, v in units.items()}
    far = {name: [[v + d] for d in (0.0, 0.01, 0.02)] for name, v in units.items()}
    found = judge("elimination", [], None, [measured("elimination", "tenth_distance", layers)])
    assert found.tables[0].rows[0] == ("BN − GN", "−0.50 (3)", "−2.00 (3)", "+1.50 ± 0.00", "for")
    elimination = measured("elimination", "tenth_distance", far)
    assert judge("elimination", [], None, [elimination]).verdict == "holds"
    far["ws+gn"] = [[-3.0], [-3.1], [None]]  # one diverged
    elimination = measured("elimination", "tenth_distance", far)
    assert judge("elimination", [], None, [elimination]).verdict == "does not hold"

    constants = {"gn": 10.0, "ws+gn": 1.0, "bcn": 8.0, "ws+bcn": 2.0}
    of = {name: [v, 1.1 * v, 1.2 * v] for name, v in constants.items()}
    smooth = measured("smoothness", "loss", of, gradient=1.0)
    found = judge("smoothness", [], None, [smooth])
    assert found.verdict == "undecided"  # the gradient's are equal
    assert found.tables[0].rows[0][-1] == "for"
    assert found.tables[0].rows[0][1] == "1.04 (3)"  # of decimal logarithms
    smooth["series"]["gn"]["runs"][0][1]["loss"] = None
    found = judge("smoothness", [], None, [smooth])
    assert found.tables[0].rows[0][1] == "1.06 (2)"

    halves = {"neither": 40.0, "centring": 50.0, "scaling": 42.0, "both": 55.0}
    accuracies = {name: around(mean) for name, mean in halves.items()}
    ws = measured("standardization", "test_accuracy", accuracies)
    assert judge("standardization", [], None, [ws]).verdict == "holds"
    ws["series"]["both"]["runs"] = [[{"test_accuracy": None}]] * 3
    assert judge("standardization", [], None, [ws]).verdict == "does not hold"


def test_a_run_that_diverged_counts_as_chance_and_the_precision_is_that_of_most_runs():
    planted = PLANTED["micro-bn"][0]
    lost = [
        result | {"test_accuracy": [None, None, None]}
        if (result["method"], result["batch_size"]) == ("bn", 1)
        else result
        for result in planted
    ]
    found = judge("micro-bn", lost)
    assert found.verdict == "holds"
    assert found.tables[0].rows[0][2] == "10.00 (3)"
    assert found.figures.startswith("in bfloat16: BN at 64 − BN at 1 +60.00")


def test_the_interval_is_students_of_differences_by_seed():
    one, two = {0: 54.0, 1: 40.0, 2: 55.5}, {2: 52.2, 1: 38.5, 0: 52.0}
    found = paired(one, two)
    expected = scipy.stats.ttest_rel([54.0, 40.0, 55.5], [52.0, 38.5, 52.2])
    low, high = expected.confidence_interval(0.95)
    assert found.value - found.half == pytest.approx(low)
    assert found.value + found.half == pytest.approx(high)
    assert paired({0: 1.0}, {0: 2.0}).half is None
    assert paired({}, {}) is None


def test_seeds_that_one_side_lacks_have_no_part():
    planted, _ = PLANTED["conv-enorm-baseline"]
    more = [
        result | {"seeds": [0, 2, 6], "test_accuracy": [70.1, 70.5, 99.0]}
        if result["method"] == "enorm"
        else result
        for result in planted
    ]
    row = judge("conv-enorm-baseline", more).tables[0].rows[0]
    assert row[1:3] == ("70.30 (2)", "65.00 (2)")
    apart = [result | {"seeds": [5, 6, 7]} for result in planted if result["method"] == "enorm"]
    apart += [result for result in planted if result["method"] != "enorm"]
    found = judge("conv-enorm-baseline", apart)
    assert (found.verdict, found.reason) == ("undecided", "runs are missing")
    assert found.missing == "seeds of both: ENorm − Baseline: 2"


def test_cells_of_other_experiments_are_found_in_folders_of_their_names(tmp_path):
    import claims
    from verdicts.findings import ENORM

    write_json(tmp_path / "fc.json", of_study(ENORM, 9, [55.0]))
    for folder, own in (("conv", conv(enorm=71.0)), ("micro_batch", micro({}))):
        (tmp_path / folder).mkdir()
        for number, result in enumerate(own):
            write_json(tmp_path / folder / f"cell{number}.json", result)
    (tmp_path / "mechanisms").mkdir()
    series = measured("elimination", "tenth_distance", {"bn": [[0.5], [0.6]], "gn": [[0.1]]})
    write_json(tmp_path / "mechanisms" / "mechanisms_elimination_cifar10_batch64.json", series)
    (text,) = claims.written(tmp_path).values()
    assert "| ENorm − Baseline | 71.00 (3) | 70.00 (3) | +1.00 ± 0.00 | for |" in text
    assert "| BN at 64 − BN at 1 | 70.00 (3) | 70.00 (3) | +0.00 ± 0.00 | against |" in text
    assert "| BN − GN | 0.50 (1) | 0.10 (1) | +0.40 | one run |" in text
    assert "| BN − LN | – | – | – | missing |" in text


@pytest.mark.slow
def test_by_seed_some_outputs_are_off_before_training_as_the_report_says(cifar10_dir, monkeypatch):
    monkeypatch.undo()  # the user's own cache: decoding takes half a minute
    cifar = data.load("cifar10", cifar10_dir)
    recipe = recipe_of(networks.conv_cell("enorm", "float32"), cifar)
    seeds = jnp.arange(10, dtype=jnp.uint32)
    hyper = hyperparameters(10, learning_rate=0.0, c=1.0, weight_decay=0.0)
    init = jax.jit(functools.partial(init_states, recipe))
    params = init(seeds, hyper, cifar.train_images[:1]).params
    images = recipe.standardization(
        recipe.augmentation.centre(jnp.asarray(cifar.train_images[:256]))
    )
    off = []
    for seed in range(10):
        own = jax.tree.map(lambda leaf, seed=seed: leaf[seed], params)
        outputs = recipe.model.apply({"params": own}, images, train=False)
        off.append(int(((outputs > 0).mean(axis=0) <= 0.1).sum()))
    assert off == [1, 1, 2, 4, 0, 1, 1, 0, 0, 3]
