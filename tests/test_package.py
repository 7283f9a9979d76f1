"""What `help(enorm_jax)` says."""

import inspect
import re

import enorm_jax

STATES = ["EquiNormalizeState", "PathState"]  # met in what their optimizers return


def test_the_packages_docstring_tells_every_public_name_and_no_other() -> None:
    public = {name for name, value in vars(enorm_jax).items() if not inspect.ismodule(value)}
    lists = re.findall(r"^  ([A-Za-z_, ]+)[:.]", enorm_jax.__doc__ or "", re.MULTILINE)
    told = [name for line in lists for name in line.split(", ")]
    assert len(told) == len(set(told))
    assert told + STATES == enorm_jax.__all__
    assert set(enorm_jax.__all__) == {name for name in public if not name.startswith("_")}
