"""Rows of benchmarks as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from modelpar.bench.kernels import SAMPLE

Results = dict[str, Any]
Row = dict[str, Any]


def cd1_tables(results: Results) -> list[Table]:
    """Updates beside products; then, where they were asked for, pieces of a step and peers."""
    main = _table("B x visible x hidden", "statistics", "layout", "samples/s", "GFLOP/s", "GEMM GFLOP/s", "over GEMM",
                  "from ... to")  # fmt: skip
    for row in results["rows"]:
        main.add_row(
            row["size"], row["statistics"], row["layout"], f"{row['samples_per_second']:,.0f}",
            f"{row['gflops']:.1f}", f"{row['sgemm_gflops']:.1f}", f"{row['over_sgemm']:.2f}",
            " ... ".join(f"{ratio:.2f}" for ratio in row["over_sgemm_range"]),
        )  # fmt: skip
    profiled = [row for row in results["rows"] if "profile" in row]
    contested = [row for row in results["rows"] if row.get("peers", {}).get("peers")]
    return [main, *([_profiles(profiled)] if profiled else []), *([_peers(contested)] if contested else [])]


def pcd_tables(results: Results) -> list[Table]:
    """Updates by chains of many sweeps beside products, and beside peers."""
    names = list(dict.fromkeys(name for row in results["rows"] for name in row["peers"]))
    main = _table("B x visible x hidden", "chains", "sweeps", "layout", "updates/s", "chains swept/s", "GFLOP/s",
                  "GEMM GFLOP/s", "over GEMM", *(f"over {name}" for name in names))  # fmt: skip
    for row in results["rows"]:
        ratios = [f"{row['peers'][name]:.2f}" if name in row["peers"] else "" for name in names]
        main.add_row(
            row["size"], str(row["chains"]), str(row["chain_steps"]), row["layout"],
            f"{row['updates_per_second']:.3g}", f"{row['samples_per_second']:,.0f}", f"{row['gflops']:.1f}",
            f"{row['sgemm_gflops']:.1f}", f"{row['over_sgemm']:.2f}", *ratios,
        )  # fmt: skip
    return [main]


def finetune_tables(results: Results) -> list[Table]:
    """Updates of fine-tuning by batch size and precision, beside products, and beside peers."""
    names = list(dict.fromkeys(name for row in results["rows"] for name in row["peers"]))
    main = _table("batch", "products", "made by", "updates/s", "samples/s", "GFLOP/s", "GEMM GFLOP/s", "over GEMM",
                  *(f"over {name}" for name in names))  # fmt: skip
    for row in results["rows"]:
        ratios = [f"{row['peers'][name]:.2f}" if name in row["peers"] else "" for name in names]
        main.add_row(
            str(row["batch"]), row["products"], row["way"], f"{row['updates_per_second']:.4g}",
            f"{row['samples_per_second']:,.0f}", f"{row['gflops']:.1f}", f"{row['sgemm_gflops']:.1f}",
            f"{row['over_sgemm']:.2f}", *ratios,
        )  # fmt: skip
    return [main]


def sparse_tables(results: Results) -> list[Table]:
    """Updates where connections are listed, by partitioner."""
    main = _table("partitioner", "ms an update", "samples/s", "GFLOP/s", "over scipy.sparse", "over SGEMM",
                  "bytes a step", "predicted", "bytes a connection")  # fmt: skip
    pieces = _table("partitioner", *results["rows"][0]["pieces"], title="Milliseconds of each piece of an update")
    for row in results["rows"]:
        ratios = [
            f"{row[ratio]:.1f} ({row[rate]:.1f} GFLOP/s)" if ratio in row else ""
            for ratio, rate in (("over_scipy", "scipy_gflops"), ("over_dense", "dense_gflops"))
        ]
        main.add_row(
            row["partitioner"], f"{1e3 * row['seconds']:.2f}", f"{row['samples_per_second']:,.0f}",
            f"{row['gflops']:.1f}", *ratios, f"{row['bytes']:,}", f"{row['predicted']:,}",
            f"{row['bytes_a_connection']:.1f}",
        )  # fmt: skip
        pieces.add_row(row["partitioner"], *(f"{1e3 * value:.2f}" for value in row["pieces"].values()))
    return [main, pieces]


def _profiles(rows: list[Row]) -> Table:
    names = list(rows[0]["profile"]["pieces"])
    table = _table("size", "statistics", "kernels", "step", *names,
                   title="Where the time of a step goes: share, and rate over GEMM's")  # fmt: skip
    for row in rows:
        profile = row["profile"]
        cells = []
        for piece in profile["pieces"].values():
            ratio = "" if piece["over_sgemm"] is None else f"  {piece['over_sgemm']:.1f}"
            cells.append(f"{piece['share']:.0%}{ratio}")
        kernels = ", ".join(dict.fromkeys(profile["kernels"].values()))
        table.add_row(row["size"], row["statistics"], kernels, f"{1e3 * profile['seconds']:.2f} ms", *cells)
    return table


def _peers(rows: list[Row]) -> Table:
    table = _table("B x visible x hidden", "statistics", "peer", "samples/s", "engine's samples/s", "engine over peer",
                   title="Peers, measured in turn with the engine")  # fmt: skip
    for row in rows:
        engine = row["peers"]["engine"]
        for name, peer in row["peers"]["peers"].items():
            table.add_row(
                row["size"], row["statistics"], name, f"{peer['median']:,.0f}", f"{engine['median']:,.0f}",
                f"{peer['ratio']:.2f}",
            )  # fmt: skip
    return table


def cd1_notes(results: Results) -> list[str]:
    """Remarks on the peers' rounds, one a line."""
    lines: list[str] = []
    for row in results["rows"]:
        peers = row.get("peers")
        if peers is None:
            continue
        where = f"{row['size']}, statistics {row['statistics']}"
        if peers["discarded"]:
            lines.append(
                f"{where}: {peers['discarded']} of {peers['discarded'] + peers['rounds']} rounds were discarded, since "
                "two threads did not find two free processors beside them"
            )
        lines += list(peers["failed"].values())
        lines += [f"{name}: {note}" for name, note in peers["notes"].items()]
    return list(dict.fromkeys(lines))


def kernel_tables(results: Results) -> list[Table]:
    """Rates over SGEMM's: products by density, then statistics."""
    products = _pivot(
        [row for row in results["rows"] if row["direction"] != "statistics"],
        ("size", "threads", "direction", "density"), f"Products over SGEMM (* chosen; {SAMPLE}: with draw and packing)",
    )  # fmt: skip
    statistics = _pivot(
        [row for row in results["rows"] if row["direction"] == "statistics"],
        ("size", "threads"), "Statistics of both phases with the update, over SGEMM",
    )  # fmt: skip
    return [products, statistics]


def _pivot(rows: list[Row], keys: tuple[str, ...], title: str) -> Table:
    """A line for each combination of the keys, a column for each kernel."""
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    lines: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row[key] for key in keys), {})[row["kernel"]] = row
    names = {"size": "B x visible x hidden"}
    table = _table(*(names.get(key, key) for key in keys), "SGEMM GFLOP/s", *kernels, title=title)
    for key, line in lines.items():
        sgemm = next(iter(line.values()))["sgemm_gflops"]
        cells = [f"{line[k]['over_sgemm']:.2f}{'*' if line[k]['chosen'] else ''}" if k in line else "" for k in kernels]
        table.add_row(*map(str, key), f"{sgemm:.1f}", *cells)
    return table


def exchange_tables(results: Results) -> list[Table]:
    """The time of each exchange, and the bytes of a step in every layout."""
    verbs = _table("B x visible x hidden", "units", "batch", "what", "time", "bytes", "GB/s",
                   title="One layer's activations between the shards")  # fmt: skip
    for row in results["rows"]:
        verbs.add_row(
            row["size"], str(row["units"]), str(row["batch"]), row["what"], f"{1e6 * row['seconds']:,.1f} us",
            f"{row['bytes']:,}", f"{row['bandwidth'] / 1e9:.2f}",
        )  # fmt: skip
    steps = _table("B x visible x hidden", "layout", "statistics", "bits", "integers", "floats", "in all", "replicas",
                   "as computed", title="Bytes of one step of CD-1, over all ranks")  # fmt: skip
    for step in results["steps"]:
        kinds = {
            kind: sum(verb.get(kind, 0) for verb in step["bytes"]["shard"].values())
            for kind in ("bits", "integers", "floats")
        }
        replicas = sum(n for verb in step["bytes"]["replica"].values() for n in verb.values())
        steps.add_row(
            step["size"], step["layout"], step["statistics"], *(f"{n:,}" for n in kinds.values()),
            f"{step['total']:,}", f"{replicas:,}", "yes" if step["agree"] else "NO",
        )  # fmt: skip
    return [verbs, steps]


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    return table
