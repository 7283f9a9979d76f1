"""What a step costs: methods timed against the baseline, and the claims on made-up times."""

import json

import pytest

import step_cost
from made_up_cells import judge_store
from verdicts.store import Store

STEADY = [1.0, 1.1, 0.9, 1.05]


def costs(**networks):
    return {
        "networks": {
            network: {"methods": {m: {"seconds": [f * s for s in STEADY]} for m, f in of.items()}}
            for network, of in networks.items()
        }
    }


def judge(name, measured):
    return judge_store(name, Store([], measured))


@pytest.mark.parametrize(
    ("bn", "verdict"), [(1.33, "holds"), (1.05, "does not hold"), (1.6, "does not hold")]
)
def test_the_share_of_batch_normalization_is_that_of_its_own_step(bn, verdict):
    times = {"baseline": 1.0, "bn": bn}
    found = judge("bn-time", costs(conv=times, resnet=times))
    assert found.verdict == verdict
    assert f"{100 * (1 - 1 / bn):+.2f} ± 0.00 %" in found.figures
    alone = judge("bn-time", costs(conv=times))
    assert alone.verdict == ("undecided" if verdict == "holds" else verdict)
    assert alone.missing == "ResNet of 8 layers"
    assert judge("bn-time", costs(conv={"baseline": 1.0})).figures == "not measured"


@pytest.mark.parametrize(
    ("enorm", "verdict"), [(1.05, "holds"), (1.2, "does not hold"), (1.5, "does not hold")]
)
def test_enorm_is_cheaper_if_it_is_cheaper_than_both(enorm, verdict):
    times = {"baseline": 1.0, "bn": 1.3, "gn": 1.1, "enorm": enorm}
    assert judge("enorm-cost", costs(fc=times, conv=times, resnet=times)).verdict == verdict


def test_rounds_that_scatter_decide_nothing():
    measured = costs(**{network: {"bn": 1.3, "gn": 1.3} for network in ("fc", "conv", "resnet")})
    for of in measured["networks"].values():
        of["methods"]["enorm"] = {"seconds": [0.5, 2.0, 0.7, 2.5]}
    assert judge("enorm-cost", measured).verdict == "undecided"


def test_path_sgd_is_for_chains_of_dense_layers():
    for network, left_out in (("fc", set()), ("conv", {"path-sgd"}), ("resnet", {"path-sgd"})):
        cells = step_cost.cells(network, ("enorm", "path-sgd"), "cifar10")
        assert [cell.method for cell in cells] == [
            name for name in ("baseline", "enorm", "path-sgd") if name not in left_out
        ]
        (size,) = {cell.batch_size for cell in cells}
        assert {cell.train_images for cell in cells} == {step_cost.STEPS[network] * size}


@pytest.mark.slow
def test_every_method_is_timed_and_drawn(run_script, tmp_path):
    out = tmp_path / "cost.json"
    status, text, err = run_script(
        "experiments/step_cost.py", "--dataset", "digits", "--networks", "fc", "conv",
        "--method", "enorm", "--rounds", "2", "--out", out,
    )  # fmt: skip
    assert status == 0, err
    assert "ENorm" in text
    found = json.loads(out.read_text())["networks"]
    assert {network: list(of["methods"]) for network, of in found.items()} == {
        network: ["baseline", "enorm"] for network in ("fc", "conv")
    }
    for of in found.values():
        for entry in of["methods"].values():
            assert len(entry["seconds"]) == 2
            assert entry["memory_mb"] > 0
    other = tmp_path / "other.json"
    other.write_text("{}")
    status, _, err = run_script("experiments/step_cost.py", "--dataset", "digits", "--out", other)
    assert status == 2
    assert "is not of experiments/step_cost.py" in err
    assert run_script("figures/cost.py", out, "--out", tmp_path)[0] == 0
    assert (tmp_path / "cost.png").stat().st_size > 1000


@pytest.mark.slow
def test_convolutions_are_timed_in_both_precisions(run_script, tmp_path):
    out = tmp_path / "speed.json"
    status, text, err = run_script(
        "experiments/conv_speed.py", "--layers", "1", "--rounds", "1", "--batch-size", "2",
        "--width", "0.02", "--out", out,
    )  # fmt: skip
    assert status == 0, err
    assert "2 x 28 x 28 x 128 -> 128" in text
    found = json.loads(out.read_text())
    assert set(found["layers"][0]["ratios"]) == {"float32", "bfloat16"}
    assert min(found["layers"][0]["ratios"].values()) > 0
    assert min(found["network"]["ratios"].values()) > 0
