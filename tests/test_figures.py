import re
import shlex
from pathlib import Path

import matplotlib
import numpy as np
import pytest

FIGURES = Path(__file__).parents[1] / "figures"
COMMANDS = {
    "fc_depth.py": ["fc_depth_cifar10"],
    "fc_depth.py --published both": ["fc_depth_cifar10_both"],
    "fc_depth.py --method original --published original --default-rates --without-bias": [
        "fc_depth_cifar10_seven_original"
    ],
    "learning_curves.py": ["learning_curves_cifar10"],
    "learning_curves.py --bias --depths 9,11,17": ["learning_curves_cifar10_bias"],
    "kernel_norms.py": ["kernel_norms_cifar10_p09"],
    "divergence_seeds.py": ["divergence_seeds_cifar10"],
    "conv_networks.py": ["conv09_cifar10", "micro_batch_cifar10"],
    "mechanism_curves.py": [
        f"mechanisms_{what}_cifar10_batch64"
        for what in ("elimination", "smoothness", "standardization")
    ],
    "quantization.py": ["quantization_cifar10"],
    "speed.py": ["speed"],
    "speed.py experiments/results/benchmark-amx.json": ["speed-amx"],
    "cost.py": ["cost"],
}
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


def text_and_numbers(path):
    """An SVG without the names that are hashes, and its numbers apart."""
    text = re.sub(r'\b(id="|#)[\w-]+', r"\1", path.read_text())
    return NUMBER.sub("", text), np.array(NUMBER.findall(text), float)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_committed_figures_are_what_their_commands_draw(command, run_script, tmp_path, monkeypatch):
    monkeypatch.chdir(FIGURES.parent)
    script, *arguments = shlex.split(command)
    status, _, err = run_script(f"figures/{script}", *arguments, "--out", tmp_path)
    assert status == 0, err
    assert {path.stem for path in tmp_path.iterdir()} == set(COMMANDS[command])
    for stem in COMMANDS[command]:
        committed = FIGURES / f"{stem}.svg"
        if f"Matplotlib v{matplotlib.__version__}," not in committed.read_text():
            pytest.skip("drawn by another version of matplotlib")
        (drawn, places), (kept, expected) = map(
            text_and_numbers, (tmp_path / f"{stem}.svg", committed)
        )
        assert drawn == kept
        np.testing.assert_allclose(places, expected, atol=1e-3)


def test_every_committed_figure_has_its_command():
    of_minutes = {"divergence_boundary_cifar10"}  # which trains nothing, but initializes much
    known = {stem for stems in COMMANDS.values() for stem in stems} | of_minutes
    assert {path.stem for path in FIGURES.glob("*.svg")} == known
    assert {path.stem for path in FIGURES.glob("*.png")} == known
