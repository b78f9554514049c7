"""Tables and pictures of the study, from the results of its experiments."""

from __future__ import annotations

import json
from math import exp, inf, log
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from model import NAMES, Machine, Point, from_json

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STRATEGIES = ("allreduce", "local", "server")
LAYERS = (784, 500, 10)
COUNTS = (2, 4, 6, 8, 10, 12, 14, 16)
# the study's tables: seconds to more than 90 %, over tasks per node on 2 nodes, and over nodes of 2 tasks
STUDY = {"tasks": (1413, 674, 405, 314, 318, 342, 428, 741), "nodes": (1411, 728, 438, 337, 337, 365, 474, 856)}
STUDY_SPEEDUP = {"tasks": (3.2, 6.6, 11.0, 14.2, 14.0, 13.0, 10.4, 6.0),
                 "nodes": (3.2, 6.1, 10.2, 13.2, 13.2, 12.2, 9.4, 5.2)}  # fmt: skip
WHOLE = 1600  # samples of an iteration that is shared between all cores
COLOURS = dict(zip((*STRATEGIES, "study"), ("tab:blue", "tab:green", "tab:red", "black"), strict=True))


class Results:
    """What the experiments have left in a folder."""

    def __init__(self, folder: Path) -> None:
        def read(name: str) -> Any:
            path = folder / f"{name}.json"
            return json.loads(path.read_text()) if path.exists() else None

        self.iterations, self.check, self.curves = read("iterations"), read("check"), read("curves")
        self.goal, self.whole, times = read("goal"), read("iterations-whole"), read("times")
        self.fitted = [from_json(p) for p in times["fitted"]]
        self.held_out = [from_json(p) for p in times["held out"]]
        self.machine = Machine.fitted(self.fitted)
        self.batch = self.iterations[0]["batch"]

    def best(self, strategy: str, rows: list[dict[str, Any]] | None = None) -> dict[int, tuple[float, float]]:
        """partitions -> (iterations, at which rate): the best rate by the median over seeds"""
        found: dict[int, tuple[float, float]] = {}
        for row in self.iterations if rows is None else rows:
            if row["strategy"] == strategy:
                needed = median(inf if n is None else n for n in row["needed"])
                found[row["replicas"]] = min(found.get(row["replicas"], (inf, 0.0)), (needed, row["rate"]))
        return found

    def needed(self, strategy: str, replicas: int, *, whole: bool = False) -> float:
        """Iterations at any number of partitions, between two measured ones on a line of logarithms."""
        known = {r: n for r, (n, _) in self.best(strategy, self.whole if whole else None).items()}
        if replicas in known:
            return known[replicas]
        low = max(r for r in known if r < replicas)
        high = min(r for r in known if r > replicas)
        part = (log(replicas) - log(low)) / (log(high) - log(low))
        return exp((1 - part) * log(known[low]) + part * log(known[high]))

    def seconds(
        self, strategy: str, nodes: int, tasks: int, *, whole: bool = False, link: float = 1.0, core: float = 1.0
    ) -> float:
        """To the goal: iterations needed x modelled seconds of one.

        whole   partitions share one minibatch, instead of having one each
        link    how many times faster the links between nodes are than measured
        core    how many times slower the cores are
        """
        replicas = nodes * tasks
        batch = self.whole[0]["batch"] * self.whole[0]["replicas"] // replicas if whole else self.batch
        machine = self.machine.scaled(link, core)
        return self.needed(strategy, replicas, whole=whole) * machine.seconds(
            Point(strategy, nodes, tasks, batch, LAYERS)
        )


def write(folder: Path, pictures: Path) -> str:
    """Draw all pictures and return the tables as Markdown."""
    results = Results(folder)
    pictures.mkdir(parents=True, exist_ok=True)
    parts = [_iterations(results, pictures), _model(results, pictures), _cores(results, pictures)]
    parts += [_to_goal(results, pictures, kind) for kind in ("tasks", "nodes")]
    if results.whole:
        parts.append(_where(results, pictures))
    if results.curves:
        parts.append(_curves(results, pictures))
    if results.goal:
        parts.append(_measured_goal(results))
    return "\n\n".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _iterations(results: Results, pictures: Path) -> str:
    figure, axes = plt.subplots(figsize=(6.5, 4))
    rows = []
    for strategy in STRATEGIES:
        best = results.best(strategy)
        axes.plot(list(best), [n for n, _ in best.values()], "o-", label=strategy, color=COLOURS[strategy])
        rows.append([strategy, *(f"{n:.0f} (rate {rate:g})" for n, rate in best.values())])
    axes.set(xscale="log", yscale="log", xlabel="partitions (replicas)", ylabel="iterations to 90 %")
    axes.set_xticks(list(best), [str(r) for r in best])
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, pictures / "study-iterations.png")
    whole = []
    for strategy in STRATEGIES if results.whole else ():
        best = results.best(strategy, results.whole)
        whole.append([f"{strategy}, smaller ones", *(f"{n:.0f} (rate {rate:g})" for n, rate in best.values())])
    rows += whole
    text = "iterations to 90 %\n\n" + _table(["strategy", *(f"{r} partitions" for r in best)], rows)
    if results.check:
        lines = []
        for row in results.check:
            turned = next(
                (r for r in results.iterations
                 if (r["strategy"], r["replicas"], r["rate"]) == (row["sync"], row["ranks"], row["rate"])), None,
            )  # fmt: skip
            shown = ", ".join(map(str, turned["needed"])) if turned else "not run"
            lines.append([row["sync"], str(row["ranks"]), f"{row['rate']:g}", str(row["iterations"]), shown])
        text += "\n\nreal ranks\n\n" + _table(["strategy", "ranks", "rate", "real", "in turn, by seed"], lines)
    return text


def _model(results: Results, pictures: Path) -> str:
    machine = results.machine
    errors = {name: machine.errors(points) for name, points in
              (("fitted", results.fitted), ("held out", results.held_out))}  # fmt: skip
    figure, axes = plt.subplots(figsize=(5.5, 5))
    for points, mark, name in ((results.fitted, "o", "fitted"), (results.held_out, "x", "held out")):
        axes.plot([p.seconds * 1e3 for p in points], [machine.seconds(p) * 1e3 for p in points], mark, label=name)
    ends = [min(p.seconds for p in results.fitted) * 1e3, max(p.seconds for p in results.fitted) * 1e3]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="measured ms of an iteration", ylabel="modelled ms")
    axes.legend()
    _save(figure, pictures / "study-model.png")
    rows = [
        [p.strategy, f"{p.nodes} x {p.tasks}", str(p.batch), "-".join(map(str, p.layers)), f"{p.seconds * 1e3:.2f}",
         f"{machine.seconds(p) * 1e3:.2f}", f"{error:+.0%}"]
        for p, error in zip(results.held_out, errors["held out"], strict=True)
    ]  # fmt: skip
    mean = {name: sum(map(abs, found)) / len(found) for name, found in errors.items()}
    constants = ", ".join(f"{name} {value:.3g}" for name, value in zip(NAMES, machine.constants, strict=True))
    return (
        f"mean error {mean['fitted']:.0%} of {len(results.fitted)} fitted points, {mean['held out']:.0%} of "
        f"{len(results.held_out)} held out (largest "
        f"{max(map(abs, errors['held out'])):.0%}); constants: {constants}\n\n"
        + _table(["strategy", "nodes x tasks", "B", "layers", "measured ms", "modelled ms", "error"], rows)
    )


def _cores(results: Results, pictures: Path) -> str:
    """(a) 100 iterations of the same work, shared between more and more cores on 2-task nodes."""
    cores = (1, 2, 4, 8, 16, 32)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    rows = []
    alone = 100 * results.machine.seconds(Point("allreduce", 1, 1, WHOLE, LAYERS))
    for strategy in STRATEGIES:
        times = []
        for n in cores:
            nodes, tasks = (1, n) if n <= 2 else (n // 2, 2)
            times.append(100 * results.machine.seconds(Point(strategy, nodes, tasks, WHOLE // n, LAYERS)))
        left.plot(cores, times, "o-", label=strategy, color=COLOURS[strategy])
        right.plot(cores, [alone / t for t in times], "o-", label=strategy, color=COLOURS[strategy])
        rows.append([strategy, *(f"{t:.2f} s ({alone / t:.1f})" for t in times)])
    right.plot(cores, cores, color="grey", linewidth=1, label="ideal")
    for axes, name in ((left, "seconds of 100 iterations"), (right, "speed-up")):
        axes.set(xscale="log", yscale="log", xlabel="cores", ylabel=name)
        axes.set_xticks(cores, [str(n) for n in cores])
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, pictures / "study-cores.png")
    return f"100 iterations of {WHOLE} samples: seconds (speed-up)\n\n" + _table(
        ["strategy", *(f"{n} cores" for n in cores)], rows
    )


def _to_goal(results: Results, pictures: Path, kind: str) -> str:
    """(b) tasks per node grow on 2 nodes; (c) nodes of 2 tasks grow."""
    alone = results.seconds("allreduce", 1, 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    rows = []
    for strategy in STRATEGIES:
        times = [results.seconds(strategy, *((2, n) if kind == "tasks" else (n, 2))) for n in COUNTS]
        optimum = COUNTS[times.index(min(times))]
        left.plot(COUNTS, [t / min(times) for t in times], "o-", label=strategy, color=COLOURS[strategy])
        right.plot(COUNTS, [alone / t for t in times], "o-", label=strategy, color=COLOURS[strategy])
        rows.append([strategy, *(f"{t:.2f} ({alone / t:.2f})" for t in times), str(optimum)])
    study = STUDY[kind]
    left.plot(COUNTS, [t / min(study) for t in study], "s--", label="the study", color="black")
    right.plot(COUNTS, STUDY_SPEEDUP[kind], "s--", label="the study", color="black")
    rows.append(["the study", *(f"{t} ({s})" for t, s in zip(study, STUDY_SPEEDUP[kind], strict=True)),
                 str(COUNTS[study.index(min(study))])])  # fmt: skip
    name = "tasks on each of 2 nodes" if kind == "tasks" else "nodes of 2 tasks"
    for axes, what in ((left, "time to 90 %, over the shortest"), (right, "speed-up over one core")):
        axes.set(xlabel=name, ylabel=what, xticks=COUNTS)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, pictures / f"study-{kind}.png")
    return f"seconds to 90 % (speed-up), {name}\n\n" + _table(["strategy", *map(str, COUNTS), "optimum"], rows)


SCENES = (
    ("as measured", 1.0, 1.0), ("links of 10 Gbit/s", 10.0, 1.0), ("links of 100 Gbit/s", 100.0, 1.0),
    ("cores 100 times slower", 1.0, 100.0), ("cores 1000 times slower", 1.0, 1000.0),
)  # fmt: skip


def _where(results: Results, pictures: Path) -> str:
    """Where the optimum lies on 2 nodes, if partitions share one minibatch, on this machine and on others."""
    figure, all_axes = plt.subplots(1, len(SCENES), figsize=(3.4 * len(SCENES), 3.6))
    counts = [n for n in COUNTS if 2 * n in results.best("server", results.whole)]
    rows = []
    for axes, (name, link, core) in zip(all_axes, SCENES, strict=True):
        alone = results.seconds("allreduce", 1, 1, whole=True, core=core)
        for strategy in STRATEGIES:
            times = [results.seconds(strategy, 2, n, whole=True, link=link, core=core) for n in counts]
            axes.plot(counts, [t / min(times) for t in times], "o-", label=strategy, color=COLOURS[strategy])
            optimum = counts[times.index(min(times))]
            shown = [f"{t:.3g} ({alone / t:.1f})" for t in times]
            rows.append([name, strategy, f"{alone:.3g}", *shown, str(optimum)])
        axes.plot(COUNTS, [t / min(STUDY["tasks"]) for t in STUDY["tasks"]], "s--", label="the study", color="black")
        axes.set(title=name, xlabel="tasks on each of 2 nodes", xticks=COUNTS, ylim=(0.9, 6))
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("time to 90 %, over the shortest")
    all_axes[0].legend()
    _save(figure, pictures / "study-where.png")
    head = ["machine", "strategy", "one core", *(f"2 x {n}" for n in counts), "optimum"]
    return "one minibatch for all partitions: seconds to 90 % (speed-up over one core)\n\n" + _table(head, rows)


def _curves(results: Results, pictures: Path) -> str:
    figure, all_axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
    rows = []
    for axes, strategy in zip(all_axes, STRATEGIES, strict=True):
        mine = [row for row in results.curves if row["strategy"] == strategy]
        alone = dict(mine[0]["curve"])
        for row in mine:
            name = f"{row['replicas']}x{row['shards']}"
            axes.plot([n / 1000 for n, _ in row["curve"]], [100 * a for _, a in row["curve"]], label=name)
            gaps = [abs(a - alone[n]) for n, a in row["curve"] if n in alone]
            rows.append([strategy, name, f"{row['curve'][-1][1]:.2%}", f"{100 * max(gaps):.2f}"])
        axes.set(title=strategy, xlabel="thousand samples", ylim=(85, 97))
        axes.grid(alpha=0.3)
        axes.legend(title="replicas x shards")
    all_axes[0].set_ylabel("test accuracy, %")
    _save(figure, pictures / "study-curves.png")
    return _table(["strategy", "replicas x shards", "accuracy at the end", "largest distance from 1x1, points"], rows)


def _measured_goal(results: Results) -> str:
    rows = [
        [row["sync"], str(row["ranks"]), str(row["iterations"]), f"{row['seconds']:.2f}", f"{row['wall']:.1f}"]
        for row in results.goal
    ]
    return _table(["strategy", "cores", "iterations", "seconds of fine-tuning", "seconds in all"], rows)
