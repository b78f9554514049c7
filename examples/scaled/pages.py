"""The tables and pictures of docs/scaling.md, from the rows of examples/scaling.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

COLOURS = {"column": "#0072b2", "row": "#d55e00", "dual": "#009e73", "local": "#0072b2", "random": "#d55e00"}
STRATEGIES = ("#0072b2", "#009e73", "#56b4e9", "#d55e00", "#cc79a7")
CAUSES = ("exchange", "imbalance", "scatter")
SHOWN = ("compute", "exchange", "scatter")


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def names(rows: Sequence[Row], key: str) -> list[Any]:
    """In the order of their first use."""
    return list(dict.fromkeys(row[key] for row in rows if key in row))


def cause(row: Row) -> str:
    """The largest part of what a step takes beyond the mean rank's computing."""
    return max(CAUSES, key=lambda name: row["parts"][name])


def tables(rows: Sequence[Row]) -> str:
    """All tables in Markdown."""
    return "\n\n".join([*_scaling(rows), _help(rows), _replicas(rows), _distbelief(rows)]) + "\n"


def _scaling(rows: Sequence[Row]) -> list[str]:
    texts = []
    for study in ("weak", "strong"):
        of_study = [row for row in rows if row["study"] == study and row["bits"] == 4]
        ranks = sorted({row["ranks"] for row in of_study})
        lines = [
            f"**{study}**, 4 bits",
            "",
            "| machine | network | layout | " + " | ".join(map(str, ranks)) + " | then |",
        ]
        lines.append("|---" * (len(ranks) + 4) + "|")
        for machine in names(of_study, "machine"):
            for network in names(of_study, "network"):
                for layout in names(pick(of_study, network=network), "layout"):
                    line = {r["ranks"]: r for r in pick(of_study, machine=machine, network=network, layout=layout)}
                    cells = [f"{line[p]['efficiency']:.2f}" if p in line else "" for p in ranks]
                    last = line[max(line)]
                    lines.append(
                        f"| {machine} | {network} | {layout} | " + " | ".join(cells)
                        + f" | {cause(last)}, {100 * last['parts'][cause(last)] / last['seconds']:.0f}% |"
                    )  # fmt: skip
        texts.append("\n".join(lines))
        lines = [
            f"**{study}**, by bits of the statistics",
            "",
            "| machine | network | layout | ranks | 1 | 4 | 8 |",
            "|---" * 7 + "|",
        ]
        of_study = [row for row in rows if row["study"] == study and row["ranks"] in (256, 1024)]
        for machine in names(of_study, "machine"):
            for network in names(of_study, "network"):
                for layout in names(pick(of_study, network=network), "layout"):
                    for p in (256, 1024):
                        line = {
                            r["bits"]: r
                            for r in pick(of_study, machine=machine, network=network, layout=layout, ranks=p)
                        }
                        if line:
                            cells = " | ".join(f"{line[k]['efficiency']:.2f}" for k in (1, 4, 8))
                            lines.append(f"| {machine} | {network} | {layout} | {p} | {cells} |")
        texts.append("\n".join(lines))
    return texts


def _help(rows: Sequence[Row]) -> str:
    heads = "1024 ranks", "efficiency", "computing over the step", "ms a step", *SHOWN
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in pick(rows, study="1024"):
        parts = " | ".join(f"{1e3 * row['parts'][part]:.0f}" for part in SHOWN)
        busy = row["parts"]["compute"] / row["seconds"]
        lines.append(
            f"| {row['network']} | {row['efficiency']:.2f} | {busy:.2f} | {1e3 * row['seconds']:.0f} | {parts} |"
        )
    return "\n".join(lines)


def _replicas(rows: Sequence[Row]) -> str:
    of_study = pick(rows, study="replicas")
    ranks = sorted({row["ranks"] for row in of_study})
    lines = ["| machine | replicas by | " + " | ".join(map(str, ranks)) + " |", "|---" * (len(ranks) + 2) + "|"]
    for machine in names(of_study, "machine"):
        for network in names(of_study, "network"):
            line = {r["ranks"]: r for r in pick(of_study, machine=machine, network=network)}
            cells = [f"{line[p]['efficiency']:.2f}" if p in line else "" for p in ranks]
            lines.append(f"| {machine} | {network} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _distbelief(rows: Sequence[Row]) -> str:
    drawn = pick(rows, study="distbelief")
    texts = []
    for network in names(drawn, "network"):
        machines = [r["ranks"] for r in pick(drawn, network=network, threads=1, machine=drawn[0]["machine"])]
        lines = [
            f"| {network}: between machines | cores of each | " + " | ".join(map(str, machines)) + " |",
            "|---" * (len(machines) + 2) + "|",
        ]
        for machine in names(drawn, "machine"):
            for threads in names(drawn, "threads"):
                line = pick(drawn, network=network, machine=machine, threads=threads)
                cells = " | ".join(f"{r['speedup']:.1f}" for r in line)
                lines.append(f"| {machine} | {threads} | {cells} |")
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def pictures(rows: Sequence[Row], out: Path) -> None:
    """scaling_weak.png, scaling_strong.png and scaling_replicas.png."""
    import matplotlib

    matplotlib.use("Agg")
    for study in ("weak", "strong"):
        _efficiencies(rows, study, out / f"scaling_{study}.png")
    _others(rows, out / "scaling_replicas.png")


def _efficiencies(rows: Sequence[Row], study: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    of_study = pick(rows, study=study)
    machines = names(of_study, "machine")
    figure, axes = plt.subplots(2, len(machines), figsize=(8.2, 5.4), layout="constrained", sharex=True, sharey=True)
    for column, machine in enumerate(machines):
        for line, networks in enumerate((("dense",), ("local", "random"))):
            panel = axes[line][column]
            for network in networks:
                for layout in names(pick(of_study, network=network), "layout"):
                    colour = COLOURS[layout if network == "dense" else network]
                    for bits, style, width in ((1, "--", 1), (4, "-", 2), (8, ":", 1.3)):
                        drawn = pick(of_study, machine=machine, network=network, layout=layout, bits=bits)
                        label = (layout if network == "dense" else network) if bits == 4 else None
                        marker = "o" if bits == 4 else None
                        points = [r["ranks"] for r in drawn], [r["efficiency"] for r in drawn]
                        panel.plot(*points, style, color=colour, lw=width, label=label, marker=marker, markersize=3.5)
            panel.axhline(0.5, color="#999999", lw=0.8)
            panel.set_xscale("log", base=4)
            panel.set_xticks([1, 4, 16, 64, 256, 1024, 4096], ["1", "4", "16", "64", "256", "1024", "4096"])
            panel.set(ylim=(0, 1.05), title=f"{'dense' if line == 0 else 'local and random'}, {machine}")
            panel.title.set_fontsize(10)
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(frameon=False, fontsize=8, loc="lower left", handlelength=1.5)
    for panel in axes[1]:
        panel.set_xlabel("ranks")
    for panel in axes[:, 0]:
        panel.set_ylabel("efficiency")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _others(rows: Sequence[Row], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    of_study = pick(rows, study="replicas")
    for panel, machine in zip(axes[:2], names(of_study, "machine"), strict=True):
        for name, colour in zip(names(of_study, "network"), STRATEGIES, strict=True):
            drawn = pick(of_study, machine=machine, network=name)
            panel.plot(
                [r["ranks"] for r in drawn], [r["efficiency"] for r in drawn], "o-", color=colour, label=name, ms=3.5
            )
        panel.set_xscale("log", base=4)
        panel.set_xticks([1, 4, 16, 64, 256, 1024, 4096], ["1", "4", "16", "64", "256", "1024", "4096"])
        panel.set(ylim=(0, 1.05), xlabel="replicas", ylabel="efficiency", title=machine)
        panel.title.set_fontsize(10)
        panel.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, fontsize=7.5, loc="lower left")
    panel, drawn = axes[2], pick(rows, study="distbelief")
    for network, colour in zip(names(drawn, "network"), STRATEGIES, strict=False):
        for machine, style in zip(names(drawn, "machine"), ("o-", "o--"), strict=True):
            line = pick(drawn, network=network, machine=machine, threads=max(names(drawn, "threads")))
            label = f"{network}, {machine.split()[0]}"
            panel.plot(
                [r["ranks"] for r in line], [r["speedup"] for r in line], style, color=colour, label=label, ms=3.5
            )
    panel.plot([81], [12], "*", color=STRATEGIES[0], ms=11, label="DistBelief, local (2012)")
    panel.plot([8], [2.2], "*", color=STRATEGIES[1], ms=11, label="DistBelief, fully connected")
    panel.plot([1, 144], [1, 144], color="#999999", lw=0.8)
    panel.set(xscale="log", yscale="log", xlabel="machines", ylabel="times faster than one", title="Beside DistBelief")
    panel.set_xticks([1, 4, 16, 64, 144], ["1", "4", "16", "64", "144"])
    ticks = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.title.set_fontsize(10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=7, handlelength=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
