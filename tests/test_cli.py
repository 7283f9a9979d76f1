import argparse

import pytest

from enorm_jax import cli
from enorm_jax.errors import InputError


@pytest.mark.parametrize(
    ("parse", "text", "want"),
    [
        (cli.depths, "1-19", tuple(range(1, 20, 2))),
        (cli.depths, "1-4:1", (1, 2, 3, 4)),
        (cli.depths, "9,1,9", (1, 9)),
        (cli.seeds, "3", (0, 1, 2)),
        (cli.seeds, "1000-1002", (1000, 1001, 1002)),
        (cli.methods, "enorm,bn", ("enorm", "bn")),
        (cli.methods, "study", ("baseline", "bn", "enorm", "enorm+bn")),
    ],
)
def test_lists_are_read(parse, text, want):
    assert parse(text) == want


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (cli.depths, "19-1"), (cli.depths, "a"), (cli.depths, "1-9:0"), (cli.depths, "-3"),
        (cli.seeds, "0"), (cli.seeds, "1..3"), (cli.seeds, "1-2,9999999999"),
        (cli.seeds, "3000000000"),
        (cli.methods, "batchnorm"), (cli.methods, "bn+gn"), (cli.methods, "ws"),
        (cli.methods, "enorm+wn"), (cli.methods, "bn+wn"), (cli.methods, "path-sgd+bn"),
        (cli.positive_int, "0"), (cli.positive_int, "1.5"), (cli.positive_float, "nan"),
        (cli.positive_float, "inf"), (cli.non_negative_float, "-1"), (cli.count, "-1"),
        (cli.floats, "0.1,"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(parse, text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_an_interruption_ends_at_once_and_says_how_to_go_on(monkeypatch, capsys):
    statuses = []
    monkeypatch.setattr(cli.os, "_exit", statuses.append)
    cli.run(fail(KeyboardInterrupt()), again="go on so")
    assert statuses == [130]
    assert capsys.readouterr().err.strip() == "stopped; finished epochs are kept: go on so"


def fail(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("wrong\nthing"), 2),
        (PermissionError(13, "Permission denied", "/x"), 2),
    ],
)
def test_faults_become_one_line_and_a_status(error, status, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(fail(error))
    assert caught.value.code == status
    assert capsys.readouterr().err.strip().count("\n") == 0


@pytest.mark.parametrize("bug", [ZeroDivisionError, ValueError, TypeError])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(bug):
        cli.run(fail(bug()))
