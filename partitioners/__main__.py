"""``python -m partitioners compare``: methods, networks and numbers of parts in one table."""

from __future__ import annotations

import importlib.util
import io
import os
import shlex
import sys
from pathlib import Path

import click
from rich.text import Text

from partitioners.auto import Progress
from partitioners.columns import PIPED
from partitioners.compare import Result, compare, standing, table, write_json
from partitioners.graph import GraphError
from partitioners.methods import EXTRAS, METHODS, method
from partitioners.networks import NETWORKS, network
from partitioners.report import write_report
from partitioners.terminal import plain_console
from partitioners.writing import check_targets

DEFAULT_NETWORKS = "local28,smallworld,scalefree,dense"
DEFAULT_METHODS = "block,strided,random,tiles,strips,spectral,assignment,refined,multilevel,auto"


def listed(text: str, every: list[str]) -> list[str]:
    """The names of a list with commas; ``all`` stands for all of ``every``."""
    return [name for word in text.split(",") for name in (every if word.strip() == "all" else [word.strip()]) if name]


class OutputFile(click.ParamType):
    """A file to write; a leading ``~`` stands for a home."""

    name = "file"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value):
            self.fail("it is empty, but must name a file", param, ctx)
        return Path(os.path.expanduser(value)).absolute()


@click.group()
def main() -> None:
    """Divide the units of a layered network among parts."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may not be printable


@main.command("compare")
@click.option(
    "--networks", default=DEFAULT_NETWORKS, show_default=True, help=f"Or all, or some of {', '.join(NETWORKS)}."
)
@click.option(
    "--methods", default=DEFAULT_METHODS, show_default=True,
    help=f"Or all that can be run here, or some of {', '.join(METHODS)}, each also with +refined.",
)  # fmt: skip
@click.option("--parts", default="4", show_default=True, help="Numbers of parts, with commas.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every method.")
@click.option(
    "--batch", type=click.IntRange(1), default=64, show_default=True,
    help="Samples of a minibatch, for the bytes that are predicted.",
)  # fmt: skip
@click.option(
    "--budget", type=float, metavar="SECONDS",
    help="For each search of auto and fastest; without it a number of look-ups that follows from the network.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(0),
    help="At most so many of auto and fastest: what a search with a budget has told, to find its answer again.",
)  # fmt: skip
@click.option("--json", "json_file", type=OutputFile(), help="Write all results to this file.")
@click.option("--html", "html_file", type=OutputFile(), help="Write a page with pictures to this file.")
def compare_command(
    networks: str, methods: str, parts: str, seed: int, batch: int, budget: float | None, rounds: int | None,
    json_file: Path | None, html_file: Path | None,
) -> None:  # fmt: skip
    """Run methods on networks, and compare their partitions."""
    available = [name for name in METHODS if name not in EXTRAS or importlib.util.find_spec(EXTRAS[name])]
    console, results = plain_console(stderr=True), list[Result]()
    words = [word.strip() for word in parts.split(",")]
    if not all(word.isdecimal() and len(word) < 20 and int(word) > 0 for word in words):
        raise click.BadParameter(f"{parts!r} is not a list of numbers from 1 with commas", param_hint="--parts")
    numbers = [int(word) for word in words]
    try:
        names = listed(methods, available)
        if not names or not listed(networks, list(NETWORKS)):
            raise GraphError("--networks and --methods need at least one name each")
        for name in names:
            method(name)
        chosen = [network(name) for name in listed(networks, list(NETWORKS))]
        check_targets(json_file, html_file)
        with console.status(Text("starting")) as status:

            def show(name: str, n_parts: int, how: str, now: Progress | None) -> None:
                status.update(Text(standing(name, n_parts, how, now)))

            results += compare(
                chosen, names, numbers, seed=seed, batch=batch, budget=budget, rounds=rounds, progress=show
            )
        output = plain_console()
        output = output if output.is_terminal else plain_console(width=PIPED)
        output.print(table(results, output.width))
        if json_file is not None:
            write_json(json_file, results)
        if html_file is not None:
            write_report(html_file, chosen, results, shlex.join(["python", "-m", "partitioners", *sys.argv[1:]]))
    except GraphError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main(prog_name="python -m partitioners")
