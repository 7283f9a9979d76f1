import argparse

import pytest

from enorm_jax import cli, parse
from enorm_jax.errors import InputError


@pytest.mark.parametrize(
    ("read", "text", "want"),
    [
        (parse.depths, "1-19", tuple(range(1, 20, 2))),
        (parse.depths, "1-4:1", (1, 2, 3, 4)),
        (parse.depths, "9,1,9", (1, 9)),
        (parse.seeds, "3", (0, 1, 2)),
        (parse.seeds, "1000-1002", (1000, 1001, 1002)),
        (parse.methods, "enorm,bn", ("enorm", "bn")),
        (parse.methods, "study", ("baseline", "bn", "enorm", "enorm+bn")),
    ],
)
def test_lists_are_read(read, text, want):
    assert read(text) == want


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (parse.depths, "19-1"), (parse.depths, "a"), (parse.depths, "1-9:0"), (parse.depths, "-3"),
        (parse.seeds, "0"), (parse.seeds, "1..3"), (parse.seeds, "1-2,9999999999"),
        (parse.seeds, "3000000000"),
        (parse.methods, "batchnorm"), (parse.methods, "bn+gn"), (parse.methods, "ws"),
        (parse.methods, "enorm+wn"), (parse.methods, "bn+wn"), (parse.methods, "path-sgd+bn"),
        (parse.positive_int, "0"), (parse.positive_int, "1.5"), (parse.positive_float, "nan"),
        (parse.positive_float, "inf"), (parse.non_negative_float, "-1"), (parse.count, "-1"),
        (parse.floats, "0.1,"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(read, text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    path = tmp_path / "new" / "found.json"
    assert parse.new_file(str(path)) == path
    assert not path.parent.exists()  # until there is something to write
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "found.json"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"name a file|another place"):
            parse.new_file(str(place))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(argparse.ArgumentTypeError, match=f"cannot write to {tmp_path}: choose"):
        parse.new_file(str(path))


def test_help_says_defaults_as_one_would_write_them():
    p = cli.Parser(prog="script", formatter_class=cli.HelpFormatter)
    p.add_argument("--grid", default=(0.1, 0.05), help="rates")
    p.add_argument("--methods", default=("bn", "gn"), help="names")
    p.add_argument("--check", default=(), help="depths")
    p.add_argument("--no-cache", dest="cache", action="store_false", help="compile again")
    p.add_argument("--epochs", default=60, help="number")
    text = p.format_help()
    for shown in ("rates (default: 0.1,0.05)", "names (default: bn,gn)", "number (default: 60)"):
        assert shown in text
    assert text.count("default") == 3


def test_an_interruption_ends_at_once_and_says_how_to_go_on(monkeypatch, capsys):
    statuses = []
    monkeypatch.setattr(cli.os, "_exit", statuses.append)
    cli.run(fail(KeyboardInterrupt()), again="go on so")
    assert statuses == [130]
    assert capsys.readouterr().err.strip() == "stopped; go on so"


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
