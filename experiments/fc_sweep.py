"""Test accuracy over depth of the study's fully connected networks.

    python experiments/fc_sweep.py --method enorm --depths 1-19

trains 3072 -> 500 -> (p times 500) -> 10 on CIFAR-10 for p = 1, 3, ..., 19 at the published
settings: an hour or more a method and seed on 2 cores. Stopped at any moment, the same command
goes on. Every cell leaves a JSON file in --out; a table and a figure beside the published
results close the run.
"""

from rich.console import Console

from enorm_jax import cli
from enorm_jax.results import read_results
from enorm_jax.summary import summary
from fc_cells import cells, parser
from train_cells import train


def main() -> None:
    """Runs the command."""
    args = parser(__doc__).parse_args()
    console = Console()
    wanted = train(args, cells, console)
    if args.dry_run:
        return
    console.print(summary(wanted, args.out))
    from enorm_jax.plotting import accuracy_over_depth  # a second that workers need not spend

    shown = [
        result
        for result in read_results(args.out)
        if (result["experiment"], result["dataset"]) == ("fc", args.dataset)
    ]
    if not shown:
        console.print("no cell is finished yet: another process trains them", highlight=False)
        return
    paths = accuracy_over_depth(shown, args.out / f"accuracy_over_depth_{args.dataset}")
    console.print(f"figure: {paths[1]}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
