import json
import math
import re

import numpy as np
import pytest

from enorm_jax import plotting, published
from enorm_jax.methods import METHODS, ORIGINAL, STUDY
from enorm_jax.plotting import STYLES, accuracy_over_depth
from enorm_jax.results import pooled
from made_up_cells import cell
from verdicts.runs import Setting


def result(method="enorm", depth=1, accuracy=(54.0,), seeds=None, **settings):
    base = {
        "dataset": "cifar10", "width": 500, "bias": False, "epochs": 60, "learning_rate": 0.05,
        "c": 1.2, "batch_size": 256, "weight_decay": 1e-3, "precision": "float32", "restarts": 0,
    }  # fmt: skip
    seeds = list(seeds or range(len(accuracy)))
    return base | settings | {
        "method": method, "depth": depth, "test_accuracy": list(accuracy), "seeds": seeds,
    }  # fmt: skip


def drawn(results, monkeypatch):
    """By label what is drawn: where it lies along the depths, and how high."""
    figures = []
    monkeypatch.setattr(plotting, "save", lambda figure, stem: figures.append(figure))
    accuracy_over_depth(results, None)
    (axis,) = figures[0].axes
    lines = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    found = {
        label: getattr(line, "lines", [line])[0].get_xydata().T for label, line in lines.items()
    }
    plotting.plt.close(figures[0])
    return found


def test_every_method_has_its_own_look():
    assert set(STYLES) == set(METHODS)
    for keys in (("marker",), ("color", "linestyle")):
        looks = {tuple(style[key] for key in keys) for style in STYLES.values()}
        assert len(looks) == len(STYLES)


def test_seeds_are_pooled_once_and_diverged_runs_counted():
    accuracies, diverged = pooled(
        [
            result(accuracy=(54.0, None, None), seeds=(0, 1, 3)),
            result(accuracy=(53.0,), seeds=(3,), restarts=1),
            result(accuracy=(54.0, 55.0), seeds=(0, 2)),
            result(depth=3, accuracy=(None,)),
        ]
    )
    assert accuracies == {1: [54.0, 55.0, 53.0]}  # of seeds 0, 2, 3
    assert diverged == {1: 1, 3: 1}


def test_the_figure_names_runs_settings_divergence_and_published_points(tmp_path):
    results = [
        result(accuracy=(54.0, 55.0)),
        result(accuracy=(53.0,), c=1.1),
        result("baseline", depth=3, accuracy=(52.0,)),
        result("baseline", depth=5, accuracy=(52.0,), learning_rate=0.1),
        result(depth=11, accuracy=(None,), bias=True),
    ]
    svg, png = accuracy_over_depth(results, tmp_path / "figure")
    assert png.stat().st_size > 10_000
    text = svg.read_text()
    for part in ("ENorm, c 1.2, n = 2", "ENorm, c 1.1, n = 1", "Baseline, rate 0.05, n = 1",
                 "Baseline, published, n = 2", "ENorm: 1 NaN", "ENorm, all diverged",
                 "ENorm, published: NaN", "with bias, float32"):  # fmt: skip
        assert f"<!-- {part} -->" in text, part


def test_runs_that_learn_nothing_are_noted_and_leave_the_others_their_room(tmp_path):
    trained = [result("baseline", depth=p, accuracy=(52.0, 54.0)) for p in (1, 3)]
    one, _ = accuracy_over_depth(trained, tmp_path / "trained")
    dead = result("path-sgd", accuracy=(10.0, 24.3, None, 53.0))
    svg, _ = accuracy_over_depth([*trained, dead], tmp_path / "dead")
    texts = [path.read_text() for path in (one, svg)]
    assert "<!-- Path-SGD: 2 ≤ 25 %, 1 NaN -->" in texts[1]
    assert "<!-- Path-SGD, n = 1 -->" in texts[1]
    for text in texts:
        numbers = map(float, re.findall(r"<!-- ([\d.]+) -->", text))
        assert min(number for number in numbers if number > 19) > 45  # depths end at 19


def test_a_line_is_broken_where_a_depth_lacks_runs(monkeypatch):
    trained = [result("bn", p, [53.0]) for p in (1, 3, 5, 7)]
    gaps = [result("enorm", 1, [54.0]), result("enorm", 3, [10.0]), result("enorm", 7, [55.0])]
    lines = drawn([*trained, *gaps], monkeypatch)
    np.testing.assert_array_equal(lines["BN, n = 1"], [[1, 3, 5, 7], [53] * 4])
    broken = [54, math.nan, math.nan, 55]
    np.testing.assert_array_equal(lines["ENorm, n = 1"], [[1, 3, 5, 7], broken])


def test_methods_that_would_hide_each_other_stand_side_by_side(monkeypatch):
    def places(methods, depths):
        lines = drawn([result(name, p) for name in methods for p in depths], monkeypatch)
        ours = [line[0] for label, line in lines.items() if "published" not in label]
        return np.array(ours), lines

    assert (places(STUDY, (1, 3))[0] == [1, 3]).all()
    for depths in ((1, 3), (1, 2), (5,)):
        at, lines = places(ORIGINAL, depths)
        beside = at - depths
        assert len(np.unique(at.round(6))) == at.size == 7 * len(depths)
        assert np.ptp(beside) < min(np.diff(depths), default=2)
        np.testing.assert_allclose(beside.mean(), 0, atol=1e-9)
        np.testing.assert_allclose(lines["BN, published, n = 1"][0][0] - 1, beside[1, 0])


def test_cells_at_other_rates_and_with_bias_can_be_left_out(run_script, tmp_path):
    kept = [cell(Setting("gn"), 13, [54.0]), cell(Setting("bn"), 13, [53.0])]
    others = [kept[0] | {"learning_rate": 0.03}, kept[1] | {"learning_rate": 0.02},
              kept[1] | {"bias": True}]  # fmt: skip
    for number, content in enumerate([*kept, *others]):
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    draw = ["figures/fc_depth.py", tmp_path, "--method", "original", "--default-rates"]
    assert run_script(*draw, "--without-bias")[0] == 0
    drawing = (tmp_path / "fc_depth_cifar10_seven.svg").read_text()
    assert "<!-- GN, n = 1 -->" in drawing
    assert "<!-- BN, n = 1 -->" in drawing
    assert "rate 0.0" not in drawing
    assert "with bias" not in drawing
    assert run_script(*draw[:-1])[0] == 0
    assert "rate 0.03" in (tmp_path / "fc_depth_cifar10_seven.svg").read_text()
    for number in (0, 1):
        (tmp_path / f"{number}.json").unlink()
    status, _, err = run_script(*draw, "--without-bias")
    assert status == 2
    assert "no cell passes --without-bias and --default-rates" in err


def test_notes_of_one_depth_stand_side_by_side(tmp_path):
    lost = [result(accuracy=(None,), bias=True, bias_handling=how) for how in ("scale", "gauge")]
    svg, _ = accuracy_over_depth(lost, tmp_path / "lost")
    places = re.findall(
        r"<!-- ENorm, bias \w+: 1 NaN -->\n *<g [^>]*translate\(([\d.]+)", svg.read_text()
    )
    assert len(set(places)) == 2


def test_notes_of_many_changes_leave_the_points_room(monkeypatch):
    lost = [
        result(method="enorm+bn", accuracy=(None,), init=init, inputs=inputs, train_images=images)
        for init, inputs, images in (("he_normal", "image", 40960), ("he_uniform", "true", None))
    ]
    figures = []
    monkeypatch.setattr(plotting, "save", lambda figure, stem: figures.append(figure))
    accuracy_over_depth([result(), *lost], None)
    (axis,) = figures[0].axes
    assert max(len(text.get_text()) for text in axis.texts) > 60
    low, high = axis.get_ylim()
    assert low < 54 < high
    plotting.plt.close(figures[0])


def test_the_same_results_draw_the_same_file(tmp_path):
    one, two = (accuracy_over_depth([result()], tmp_path / name)[0] for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="no results"):
        accuracy_over_depth([], tmp_path / "figure")
    with pytest.raises(ValueError, match=r"cifar10.*digits"):
        accuracy_over_depth([result(), result(dataset="digits")], tmp_path / "figure")


def test_published_numbers_are_the_papers():
    assert published.accuracies("study", "enorm+bn")[19] == 53.65
    assert math.isnan(published.accuracies("study", "enorm", bias=True)[11])
    assert published.accuracies("original", "wn+bn")[1] == 54.82
    assert list(published.accuracies("study", "bn")) == list(range(1, 20, 2))
    assert published.learning_rate("enorm+bn", 15) == 0.05
    assert published.learning_rate("baseline", 0) == 0.1
    with pytest.raises(ValueError, match=r"'gn'.*--lr"):
        published.learning_rate("gn", 1)


@pytest.mark.parametrize("script", ["cost", "mechanism_curves", "quantization", "speed"])
@pytest.mark.parametrize("content", [b"\x89PNG", b"[]", b'{"experiment": "other"}', None], ids=str)
def test_a_file_of_another_script_is_refused_in_one_line(run_script, tmp_path, script, content):
    path = tmp_path / "of_another.json"
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / "drawings"
    status, _, err = run_script(f"figures/{script}.py", path, "--out", out)
    assert status == 2
    assert str(path) in err
    assert err.strip().count("\n") == 0
    assert not out.exists()


def test_a_seed_that_diverged_does_not_hide_the_others_of_its_method(run_script, tmp_path):
    accuracies = [[40.0, 50.0], [None, None], [41.0, 52.0]]
    runs = [[{"test_accuracy": accuracy} for accuracy in run] for run in accuracies]
    settings = {"train_images": 64, "batch_size": 8}
    series = {"both": {"settings": settings, "runs": runs}}
    content = {"experiment": "mechanisms", "what": "standardization", "dataset": "digits"}
    path = tmp_path / "mechanisms.json"
    path.write_text(json.dumps(content | {"series": series}))
    assert run_script("figures/mechanism_curves.py", path)[0] == 0
    drawing = path.with_suffix(".svg").read_text()
    assert "both, n = 2, 1 diverged" in drawing
