"""The file of digests: what is written is read, damage is left out, and where two runs part is found."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from modelpar.training.digests import Comparison, Parting, UpdateDigests, append, compare, describe, read

NAMES = ("v0", "h0", "v1", "h1", "W", "b", "c")


def update(layer: int, step: int, *, stage: str = "pretrain", epoch: int = 1, **changed: int) -> UpdateDigests:
    """Digests that tell where they come from, but for those that are ``changed``."""
    names = NAMES if stage == "pretrain" else ("rbm.0.W", "rbm.0.c", "output.W", "output.c")
    digests = {name: 1000 * (layer + 1) + 10 * step + i for i, name in enumerate(names)}
    return UpdateDigests(stage, layer, epoch, step, digests | changed)


def course(n_layers: int = 2, n_steps: int = 6, n_fine: int = 3) -> list[UpdateDigests]:
    before = [update(layer, step) for layer in range(n_layers) for step in range(1, n_steps + 1)]
    return before + [update(-1, step, stage="finetune") for step in range(1, n_fine + 1)]


def write(path: Path, updates: list[UpdateDigests]) -> Path:
    with open(path, "wb") as file:
        for each in updates:
            append(file, each)
    return path


def test_a_line_is_what_is_promised() -> None:
    file = io.BytesIO()
    append(file, update(0, 17, v0=2**64 - 1, h0=0))
    line = json.loads(file.getvalue())
    assert file.getvalue().endswith(b"\n")
    assert list(line) == ["stage", "layer", "epoch", "step", "digests"]
    assert (line["stage"], line["layer"], line["epoch"], line["step"]) == ("pretrain", 0, 1, 17)
    assert tuple(line["digests"]) == NAMES
    assert (line["digests"]["v0"], line["digests"]["h0"]) == ("f" * 16, "0" * 16)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read(write(tmp_path / "digests.jsonl", course())) == (course(), 0)


def test_a_file_that_takes_a_few_bytes_at_a_time() -> None:
    class Slow(io.BytesIO):
        def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
            return super().write(data[:7])

    slow, fast = Slow(), io.BytesIO()
    for file in (slow, fast):
        append(file, update(1, 3))
    assert slow.getvalue() == fast.getvalue()


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_last_line_that_is_cut_off_is_left_out(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "digests.jsonl", course())
    path.write_bytes(path.read_bytes()[: -cut - 1])
    assert read(path) == (course() if cut == 0 else course()[:-1], 0)


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "digests.jsonl", course())
    lines = path.read_bytes().splitlines(keepends=True)
    bad = [b"\xff\xfe\n", b"[1]\n", b"{}\n", lines[0].replace(b"pretrain", b"pretrian"), lines[0][:50] + b"\n",
           lines[0].replace(b'"step":1,', b'"step":"1",'), lines[0].replace(b'"v0":"0', b'"v0":"g'), b"\n"]  # fmt: skip
    for line in bad:
        path.write_bytes(b"".join([*lines[:4], line, *lines[5:]]))
        assert read(path) == (course()[:4] + course()[5:], 1), line


def test_an_empty_file(tmp_path: Path) -> None:
    assert read(write(tmp_path / "digests.jsonl", [])) == ([], 0)


def test_what_was_done_again_counts(tmp_path: Path) -> None:
    """A run that went back to a checkpoint after step 3 of RBM 0, and left the old lines where they were."""
    again = [update(0, 4, h0=7), update(0, 5), *course()[5:]]
    assert read(write(tmp_path / "digests.jsonl", course()[:9] + again)) == (course()[:3] + again, 0)


# -- where they part -------------------------------------------------------------------------------------------------


def parted(first: list[UpdateDigests], second: list[UpdateDigests], *damaged: int) -> Comparison:
    """And the other way round, where the runs change places and nothing else."""
    n_damaged = damaged or (0, 0)
    result, turned = compare(first, second, n_damaged), compare(second, first, n_damaged[::-1])
    assert (result.n_alike, result.n_alone, result.parting is None) == (
        turned.n_alike, turned.n_alone, turned.parting is None,
    )  # fmt: skip
    if result.parting and turned.parting:
        assert (result.parting.stage, result.parting.layer, result.parting.step, result.parting.tensor) == (
            turned.parting.stage, turned.parting.layer, turned.parting.step, turned.parting.tensor,
        )  # fmt: skip
    return result


def test_runs_that_are_alike() -> None:
    assert parted(course(), course()) == Comparison(15, 0, None)
    assert parted([], []) == Comparison(0, 0, None)


@pytest.mark.parametrize("tensor", NAMES)
def test_the_first_tensor_that_differs(tensor: str) -> None:
    other = course()
    other[10] = update(1, 5, **{tensor: 1})
    other[11] = update(1, 6, v0=1, W=2)
    assert parted(course(), other) == Comparison(10, 0, Parting("pretrain", 1, 1, 5, tensor))


def test_all_tensors_of_the_update_are_named() -> None:
    other = course()
    other[10] = update(1, 5, h0=1, h1=2, W=3)
    assert parted(course(), other).parting == Parting("pretrain", 1, 1, 5, "h0", ("h1", "W"))


def test_fine_tuning() -> None:
    other = course()
    other[13] = update(-1, 2, stage="finetune", **{"output.W": 9})
    assert parted(course(), other) == Comparison(13, 0, Parting("finetune", -1, 1, 2, "output.W"))


def test_one_run_ends() -> None:
    result = compare(course(), course()[:8], (0, 0))
    assert result == Comparison(8, 0, Parting("pretrain", 1, 1, 3, None, missing_in=1))
    assert compare([], course(), (0, 0)).parting == Parting("pretrain", 0, 1, 1, None, missing_in=0)


def test_one_run_goes_on_to_the_next_rbm_earlier() -> None:
    short = [update(0, step) for step in range(1, 4)] + [update(1, step) for step in range(1, 7)]
    result = compare(course(), short, (0, 0))
    assert result == Comparison(3, 0, Parting("pretrain", 0, 1, 4, None, missing_in=1, instead="step 1 of RBM 1"))
    assert describe("finetune", -1, 3) == "step 3 of fine-tuning"


def test_damaged_lines_are_no_difference() -> None:
    holes = [each for each in course() if each.sort_key not in {(0, 0, 3), (0, 1, 6)}]
    assert parted(course(), holes, 0, 2) == Comparison(13, 2, None)
    assert parted(course(), holes, 0, 1).parting == Parting("pretrain", 1, 1, 6, None, (), 1, "step 1 of fine-tuning")


def test_a_run_that_began_to_record_later() -> None:
    assert parted(course(), course()[4:]) == Comparison(11, 4, None)


def test_tensors_that_one_run_alone_recorded() -> None:
    fewer = [UpdateDigests("pretrain", 0, 1, 1, {"h0": 1010, "s0": 5})]
    whole = [update(0, 1)]
    assert parted(whole, fewer).parting == Parting("pretrain", 0, 1, 1, "h0")
    assert parted(whole, [UpdateDigests("pretrain", 0, 1, 1, {"h0": 1011, "s0": 5})]) == Comparison(1, 0, None)
