"""What every script of the project shares: its argument parser, and one line for a fault."""

import argparse
import difflib
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from enorm_jax.errors import InputError
from enorm_jax.results import write_json


class Parser(argparse.ArgumentParser):
    """Argument parser that answers a fault with one line and exit status 2.

    What it returns has `given` too: the flags that were written, whatever their values.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, which `parse_args` calls."""
        parsed, rest = super().parse_known_args(args, namespace)
        parsed.given = frozenset(_flags(sys.argv[1:] if args is None else args))
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Prints one line, with the nearest flag if one was misspelt."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = [flag for flag in _flags(sys.argv[1:]) if flag not in flags]
        if unknown:
            message = f"unrecognized arguments: {' '.join(unknown)}"
        near = [match for flag in unknown for match in difflib.get_close_matches(flag, flags, 1)]
        hint = f"did you mean {' '.join(near)}? " if near else ""
        raise SystemExit(_complain(self.prog, f"{message}; {hint}see --help"))


def _flags(words: Iterable[str]) -> list[str]:
    """The flags among a command's words."""
    return [word.partition("=")[0] for word in words if word.startswith("--")]


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps a script's own text as written, and adds defaults where they say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False) or action.const is False:  # a flag that turns off
            return action.help
        if isinstance(action.default, list | tuple):
            values = [f"{v:g}" if isinstance(v, float) else str(v) for v in action.default]
            shown = ",".join(values)
            return f"{action.help} (default: {shown})" if shown else action.help
        return super()._get_help_string(action)


class Joined(argparse.Action):
    """One tuple of all lists that follow a flag: ``bn,gn ln`` is ``bn gn ln`` is ``bn,gn,ln``.

    For flags with ``nargs="+"``, whose `type` makes tuples. What is named twice counts once.

    Example:
      >>> from enorm_jax import cli
      >>> p = cli.Parser()
      >>> _ = p.add_argument("--of", nargs="+", action=cli.Joined, type=lambda t: t.split(","))
      >>> p.parse_args(["--of", "bn,gn", "ln", "bn"]).of
      ('bn', 'gn', 'ln')
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Keeps the values."""
        setattr(namespace, self.dest, tuple(dict.fromkeys(itertools.chain(*values))))


def save(path: Path | None, content: Mapping[str, Any], console: Console) -> None:
    """Writes what a script found as JSON, if that was asked for, and says where.

    Args:
      path: file to write, from `enorm_jax.parse.new_file`, or None.
      content: as for `write_json`.
      console: where to say so.

    Raises:
      OSError: if the file cannot be written.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


# What an interrupted script that trains cells says.
GOES_ON = "saved epochs are kept: run the same command to go on"


def run(main: Callable[[], None], again: str = "run the same command again") -> None:
    """Runs a script's main function and turns faults into one line and an exit status.

    Args:
      main: the script's main function.
      again: after an interruption, what is kept and what to do.

    Raises:
      SystemExit: 2 for a fault in the input or its files. Interrupted, the process ends with
        status 130.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("enorm_jax").setLevel(logging.INFO)
    try:
        main()
    except KeyboardInterrupt:
        print(f"\nstopped; {again}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # the ordinary way out crashes in XLA's threads if one was compiling
    except (InputError, OSError) as error:
        raise SystemExit(_complain(sys.argv[0].rsplit("/", 1)[-1], str(error))) from None


def _complain(program: str, message: str) -> int:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
