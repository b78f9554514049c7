"""The command line without mpirun: options, configuration files, errors, and what the commands print.

Modules: modelpar/cli/atomic_file, modelpar/cli/options, modelpar/cli/run_directory, modelpar/cli/run_records,
modelpar/cli/threads
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli import config, options, run
from modelpar.cli.atomic_file import atomic_write
from modelpar.cli.commands import modelpar as group
from modelpar.cli.info import warnings as mismatches
from modelpar.cli.progress import size_text
from modelpar.cli.run_directory import RunDirectory
from modelpar.cli.run_records import is_before
from modelpar.cli.threads import Placement, placement
from modelpar.errors import DataError, ModelparError, SpecError
from modelpar.files import partials
from modelpar.spec import FineTuneSpec, NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training.state import Position
from tests import jobs

# The names that scripts rely on.
PROMISED = [
    "--data", "--layers", "--epochs", "--finetune-epochs", "--pretrain-only", "--until-accuracy", "--run-dir", "--seed",
    "--threads", "--dtype", "--model-shards", "--replicas", "--layout", "--config", "--resume", "--checkpoint-every",
    "--keep", "--stall-timeout", "--max-restarts", "--patience", "--evaluate-every", "--dropout", "--input-dropout",
    "--max-norm",
]  # fmt: skip


def command_of(*names: str) -> click.Command:
    result: Any = group
    for name in names:
        result = result.commands[name]
    assert isinstance(result, click.Command)
    return result


def flags(*names: str) -> set[str]:
    """All option names of a command."""
    return {flag for p in command_of(*names).params for flag in (*p.opts, *p.secondary_opts)}


def modelpar(*words: str | Path, limit: float = 120, cwd: Path | None = None, **env: str) -> jobs.Outcome:
    """``python -m modelpar`` in a process of its own."""
    return jobs.run([sys.executable, "-m", "modelpar", *words], limit=limit, cwd=cwd, PYTHONPATH=str(ROOT), **env)


ROOT = Path(__file__).parents[2]


# -- options -----------------------------------------------------------------------------------------------------------


def test_the_names_that_scripts_rely_on() -> None:
    assert flags("train") >= set(PROMISED)
    assert "--data" in flags("evaluate")
    assert "--json" in flags("info")
    assert {"--sizes", "--json", "--threads", "--dtype", "--repeats"} <= flags("bench", "cd1")
    assert set(group.commands) >= {"train", "evaluate", "sample", "reconstruct", "info", "export", "bench"}


def test_every_field_of_every_spec_is_one_option_of_train() -> None:
    parameters = command_of("train").params
    names = [p.name for p in parameters if isinstance(p, options.SpecOption)]
    expected = [f"{table}__{f.name}" for table, spec in options.SPECS.items() for f in fields(spec)]  # type: ignore[arg-type]
    assert sorted(filter(None, names)) == sorted(expected)
    every = [flag for p in parameters for flag in p.opts]
    assert len(every) == len(set(every)), "two options share a name"


def test_help_names_the_default_and_the_meaning_of_every_option() -> None:
    printed = modelpar("train", "--help").check().output
    for name in PROMISED:
        assert name in printed
    assert "[default: 64-256-256]" in " ".join(printed.split())


@pytest.mark.parametrize(("text", "layers"), [("784-500-500", (784, 500, 500)), ("3-2", (3, 2))])
def test_layers_are_parsed(text: str, layers: tuple[int, ...]) -> None:
    assert options.parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "784,500", "a-b", "3--2"])
def test_wrong_layers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="784-500-500"):
        options.parse_layers(text)


# -- configuration -----------------------------------------------------------------------------------------------------


def test_a_written_configuration_reads_back_the_same() -> None:
    specs = {
        "network": NetworkSpec(layers=(7, 5, 3), classes=2, dtype="float64", seed=2**62),
        "training": TrainingSpec(epochs=3, learning_rate=0.1 + 0.2, persistent=True),
        "finetune": FineTuneSpec(until_accuracy=0.9, dropout=0.5),
        "run": options.RunSpec(run_dir='a "b"\\c', pictures=False),
    }
    tables = config.parse_config(config.write_config(specs), "it")
    assert {name: options.SPECS[name](**tables[name]) for name in specs} == specs


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[training]\nepochs = 7\nlearning_rate = 1\n[network]\nlayers = "9-4"\n')
    settings = config.gather(MPI.COMM_SELF, {"training": {"epochs": 3}}, str(file))
    assert settings.training == TrainingSpec(epochs=3, learning_rate=1.0)
    assert settings.network().layers == (9, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[training]\nepoch = 3", "unknown key epoch; did you mean epochs?"),
        ("[training]\nbatch-size = 3", "did you mean batch_size?"),
        ("[training]\ndropout = 0.5", "it belongs to [finetune]"),
        ("[trainings]\nepochs = 3", "unknown table trainings; did you mean training?"),
        ("epochs = 3", "outside any table"),
        ("[training]\nepochs = 'many'", "[training] epochs is 'many', but must be an integer"),
        ("[training]\nepochs = 1.5", "must be an integer"),
        ("[training]\npersistent = 1", "must be true or false"),
        ("[training]\nlearning_rate = true", "must be a number"),
        ("[data]\ndata = 3", "must be a text"),
        ("[network]\nlayers = [3, 'x']", "must be a list of integers"),
        ("[network]\nlayers = '3-x'", "such as 784-500-500"),
        ("[training", "is not valid TOML"),
        ("training = 3", "must be a table"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        config.parse_config(text, "c.toml")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "c.toml" in str(caught.value)


def test_resuming_takes_the_options_of_the_run_but_not_its_grid(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[training]\nepochs = 7\n[grid]\nmodel_shards = 4\n[run]\nthreads = 9\n")
    mine = {"run": {"run_dir": str(tmp_path)}}
    settings = config.gather(MPI.COMM_SELF, mine, None, resume=True)
    assert settings.training.epochs == 7
    assert settings.grid.model_shards is None
    assert settings.run.threads is None


@pytest.mark.parametrize(("said", "variances"), [("", "unit"), ("variances = 'learned'\n", "learned")])
def test_a_run_that_does_not_name_variances_has_none_to_learn(tmp_path: Path, said: str, variances: str) -> None:
    """It is of an earlier version; others name all that they were begun with."""
    (tmp_path / "config.toml").write_text(f"[network]\nlayers = [4, 3]\nvisible = 'gaussian'\n{said}")
    settings = config.gather(MPI.COMM_SELF, {"run": {"run_dir": str(tmp_path)}}, None, resume=True)
    assert settings.network().variances == variances


def test_another_strategy_does_not_take_over_the_options_of_the_first(tmp_path: Path) -> None:
    """But those that all strategies have."""
    (tmp_path / "config.toml").write_text("[sync]\nsync = 'local'\nperiod = 3\ncheck_replicas = 7\nrepair = true\n")
    mine = {"run": {"run_dir": str(tmp_path)}, "sync": {"sync": "server"}}
    settings = config.gather(MPI.COMM_SELF, mine, None, resume=True)
    assert settings.sync == SyncSpec("server", check_replicas=7, repair=True)


def test_other_data_than_those_of_the_run_bring_their_own_options(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[data]\ndata = 'mine.npy'\nlabels = 'labels.npy'\n")
    (tmp_path / "model.safetensors").touch()
    same = config.gather(MPI.COMM_SELF, {}, None, beside=str(tmp_path / "model.safetensors"))
    other = config.gather(MPI.COMM_SELF, {"data": {"data": "digits"}}, None, beside=str(tmp_path / "model.safetensors"))
    assert (same.data.data, same.data.labels) == ("mine.npy", "labels.npy")
    assert (other.data.data, other.data.labels) == ("digits", None)


# -- the way in and out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--epoch", "3"], "No such option '--epoch'"),
        (["train", "--epochs", "-3"], "--epochs is -3, but must be at least 0"),
        (["train", "--finetune-epochs", "-3"], "--finetune-epochs is -3"),
        (["train", "--dropout", "1.5"], "--dropout is 1.5, but must be below 1"),
        (["train", "--until-accuracy", "90"], "--until-accuracy is 90.0, but must be at most 1"),
        (["train", "--layers", "784"], "--layers names 1 layer"),
        (["train", "--dtype", "float16"], "float16"),
        (["train", "--resume"], "give --run-dir"),
        (["train", "--max-restarts", "3"], "give --resume with it"),
        (["train", "--stall-timeout", "-1"], "--stall-timeout is -1"),
        (["train", "--resume", "--overwrite", "--run-dir", "x"], "exclude each other"),
        (["train", "--config", "no-such-file.toml"], "no-such-file.toml cannot be read"),
        (["bench", "cd1", "--sizes", "100x784"], "batch x visible x hidden"),
        (["sample", "x", "--out", "x.jpg"], "use .png or .npy"),
        (["sample", "x", "--image-shape", "28"], "rows x columns"),
        (["sample", "x", "--start", "chains", "--method", "pt"], "--start has no effect on --method pt"),
        (["score", "nosuchfile"], "nosuchfile does not exist; name a checkpoint, or a run directory"),
        (["export", "x", "x.txt"], "use .npz, .safetensors or .h5"),
        (["explode"], "No such command 'explode'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(words: list[str], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(MPI.COMM_SELF, words) == 2
    out, err = capfd.readouterr()
    assert expected in re.sub(r"option: (--[\w-]+)", r"option '\1'", err)  # as older versions of click write it
    assert err.startswith("modelpar: error: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (DataError("no such data"), 2, "no such data"),
        (ModelparError("two\nlines"), 2, "two\\nlines"),
        (FileNotFoundError(2, "No such file or directory", "x.npy"), 2, "x.npy: No such file or directory"),
        (MemoryError("array too large"), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_statuses(
    error: BaseException, status: int, expected: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(command_of("info"), "callback", fail)
    assert run(MPI.COMM_SELF, ["info"]) == status
    err = capfd.readouterr().err
    assert expected in err
    assert "Traceback" not in err
    assert err.strip().count("\n") == 0


def test_version_and_help_end_well() -> None:
    assert "0." in modelpar("--version").check().output
    assert "train" in modelpar("--help").check().output
    assert "Commands:" in modelpar().check().output
    assert "cd1" in modelpar("bench").check().output


def test_numpy_is_not_loaded_before_the_threads_are_known() -> None:
    code = (
        "import sys; from mpi4py import MPI; import modelpar.cli, modelpar.cli.commands\n"
        "assert 'numpy' not in sys.modules and 'scipy' not in sys.modules, 'too early'\n"
        "from modelpar.cli.threads import prepare; prepare(MPI.COMM_WORLD, 2)\n"
        "from threadpoolctl import threadpool_info\n"
        "from modelpar.kernels.threads import get_threads\n"
        "print(sorted(x['num_threads'] for x in threadpool_info() if x['user_api'] == 'blas'), get_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT, env=jobs.environment()
    )
    assert done.returncode == 0, done.stderr
    # one BLAS for both, or one each: NumPy's then has one thread
    assert done.stdout.strip() in ("[1, 2] 2", "[2] 2")


def test_info_tells_all_as_json() -> None:
    result = json.loads(modelpar("info", "--json", "--threads", "1").check().output)
    assert result["python"] == ".".join(map(str, sys.version_info[:3]))
    assert result["numpy"] == np.__version__
    assert result["ranks"] == 1
    assert result["ranks_per_node"] == [1]
    assert result["threads_per_rank"] == 1
    wanted = {
        "modelpar",
        "scipy",
        "numba",
        "mpi4py",
        "mpi",
        "blas",
        "instruction_set",
        "cores",
        "numba_cache",
        "warnings",
    }
    assert wanted <= set(result)
    assert {"core_type", "threads", "of"} <= set(result["blas"][0])


PLACE = Placement(cores=8, own_cores=8, ranks=2, threads=4)
BLAS = {"of": "scipy", "library": "openblas", "version": "0.3", "core_type": "SkylakeX", "threads": 4}
AVX512 = ["avx", "avx2", "avx512f", "avx512vl"]


@pytest.mark.parametrize(
    ("place", "libraries", "features", "environment", "expected"),
    [
        (PLACE, [BLAS], AVX512, {}, None),
        (PLACE, [{**BLAS, "core_type": "Haswell"}], ["avx", "avx2"], {}, None),
        (
            PLACE,
            [{**BLAS, "core_type": "Haswell"}],
            AVX512,
            {"OPENBLAS_CORETYPE": "Haswell"},
            "OPENBLAS_CORETYPE=Haswell",
        ),
        (PLACE, [{**BLAS, "core_type": "Nehalem"}], ["avx", "avx2"], {}, "AVX2"),
        (Placement(8, 8, 4, 4), [BLAS], AVX512, {}, "take turns"),
        (Placement(8, 1, 2, 4), [BLAS], AVX512, {}, "--bind-to none"),
        (Placement(8, 1, 2, 1), [BLAS], AVX512, {}, "--bind-to none"),
        (PLACE, [BLAS, {**BLAS, "of": "numpy"}], AVX512, {}, "each bring a BLAS"),
        (PLACE, [BLAS], AVX512, {"OMP_NUM_THREADS": "3"}, "give --threads"),
        (PLACE, [BLAS], AVX512, {"NUMBA_DISABLE_JIT": "1"}, "not compiled"),
    ],
)
def test_info_warns_of_what_does_not_fit(
    place: Placement,
    libraries: list[dict[str, Any]],
    features: list[str],
    environment: dict[str, str],
    expected: str | None,
) -> None:
    result = mismatches(place, libraries, features, environment)
    assert len(result) == (expected is not None)
    assert expected is None or expected in result[0]


def test_threads_are_the_cores_of_the_node_over_its_ranks() -> None:
    place = placement(MPI.COMM_SELF, None)
    assert place.ranks == 1
    assert place.threads == min(place.cores, place.own_cores) >= 1
    assert placement(MPI.COMM_SELF, 3).threads == 3


# -- the run directory -------------------------------------------------------------------------------------------------


def test_a_run_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    directory = RunDirectory(MPI.COMM_SELF, tmp_path / "run")
    directory.prepare(resume=False, overwrite=False)
    (directory.path / "config.toml.partial").touch()
    directory.prepare(resume=False, overwrite=False)  # an empty one is no run, and neither is what is half written
    assert [path.name for path in directory.path.iterdir() if path.name != "lock"] == ["checkpoints"]
    directory.model.write_bytes(b"a model")
    (directory.path / "notes.txt").write_text("the user's own")
    with pytest.raises(SpecError, match="--resume to go on with it, --overwrite to replace it"):
        directory.prepare(resume=False, overwrite=False)
    directory.prepare(resume=True, overwrite=False)
    assert directory.model.exists()
    directory.prepare(resume=False, overwrite=True)
    assert not directory.model.exists()
    assert (directory.path / "notes.txt").exists()


def test_files_of_the_user_are_never_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    mine = [folder / name for name in ("thesis.txt", "step-notes.safetensors", ".probe")]
    left = partials.partial_path(folder / "step-00000006.safetensors").name.replace(f"-{os.getpid():x}-", "-0-")
    ours = [folder / name for name in ("step-00000005.safetensors", "step-00000005.safetensors.partial", left)]
    for path in (*mine, *ours):
        path.touch()
    directory = RunDirectory(MPI.COMM_SELF, tmp_path / "run")
    with pytest.raises(SpecError, match=r"holds a run already \(step-00000005.safetensors\)"):
        directory.prepare(resume=False, overwrite=False)
    directory.prepare(resume=False, overwrite=True)
    assert [path.exists() for path in (*mine, *ours)] == [True, True, True, False, False, False]


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", "summary.json", "filters.png"])
def test_a_file_with_a_name_of_a_run_is_not_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("the user's own")
    with pytest.raises(SpecError, match=name):
        RunDirectory(MPI.COMM_SELF, tmp_path).prepare(resume=False, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_damaged_records_are_left_out(tmp_path: Path) -> None:
    good = {"kind": "epoch", "stage": "pretrain", "layer": 0, "epoch": 1, "step": 5, "seconds": 0.5}
    bad = [b"3", b"[]", b"\xff\xfe", b"{}", json.dumps({**good, "epoch": "1"}).encode(), b'{"kind": "epo']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([bad[0], json.dumps(good).encode(), *bad[1:]]))
    directory = RunDirectory(MPI.COMM_SELF, tmp_path)
    assert directory.open_metrics(Position("pretrain", layer=1), n_steps=5) == [good]
    directory.close()
    assert directory.n_damaged == 5  # the last is only cut off
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == good


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as partial:
            partial.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(ModelparError, match=r"file cannot be written \(No space left on device\)"):
        fail()
    assert [(result.name, result.read_text()) for result in tmp_path.iterdir()] == [("file", "old")]


def test_runs_go_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    directory = RunDirectory(MPI.COMM_SELF, tmp_path)
    directory.prepare(resume=False, overwrite=False)
    for name in ("step-00000005", "step-00000020", "step-00000100", "step-notes"):
        (directory.checkpoints / f"{name}.safetensors").touch()
    directory.pretrained.touch()
    names = [path.stem for path in directory.to_resume(updates_of_pretraining=20)]
    assert names == ["step-00000100", "pretrained", "step-00000020", "step-00000005"]
    directory.model.touch()
    assert directory.to_resume(20)[0] == directory.model


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ({"kind": "epoch", "stage": "pretrain", "layer": 0, "epoch": 9, "step": 90}, True),
        ({"kind": "epoch", "stage": "pretrain", "layer": 1, "epoch": 2, "step": 20}, True),
        ({"kind": "epoch", "stage": "pretrain", "layer": 1, "epoch": 3, "step": 30}, False),
        ({"kind": "step", "stage": "pretrain", "layer": 1, "epoch": 3, "step": 24}, True),
        ({"kind": "step", "stage": "pretrain", "layer": 1, "epoch": 3, "step": 25}, False),
        ({"kind": "epoch", "stage": "finetune", "layer": -1, "epoch": 1, "step": 10}, False),
    ],
)
def test_records_after_the_checkpoint_are_dropped(line: dict[str, Any], kept: bool) -> None:
    position = Position("pretrain", layer=1, epoch=2, step=4)
    assert is_before(line, position, n_steps=10) is kept


@pytest.mark.parametrize(("n", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")])
def test_sizes_for_people(n: int, text: str) -> None:
    assert size_text(n) == text
