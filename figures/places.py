"""Where figures find what is committed, and where their drawings lie."""

import argparse
from pathlib import Path
from typing import Any

from enorm_jax import parse
from enorm_jax.storage import Folder, check_writable

HERE = Path(__file__).parent
RESULTS = HERE.parent / "experiments" / "results"


def add_folders(parser: argparse.ArgumentParser, committed: Path, what: str = "cells") -> None:
    """Adds the argument `results`, by default what is committed, and --out."""
    parser.add_argument(
        "results", type=parse.folder, nargs="?", default=committed, help=f"folder of {what}"
    )
    parser.add_argument(
        "--out",
        type=parse.folder,
        help=f"folder for the drawings; default: that of the {what}, of committed ones figures/",
    )


def drawings(args: Any, committed: Path) -> Folder:
    """The folder for the drawings, made if there is none.

    Raises:
      InputError: if it cannot be written.
    """
    out: Folder = args.out or (HERE if args.results == committed else args.results)
    check_writable(out)
    return out
