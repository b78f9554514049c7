"""``modelpar train``: from options to a run directory."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from mpi4py import MPI

from modelpar.cli.config import Settings
from modelpar.cli.fault_tolerance import Crew, ends_by_itself, leave
from modelpar.cli.grid_choice import grid_of, with_layout
from modelpar.cli.kill_reporter import named_when_killed
from modelpar.cli.overwriting import check_run_directory
from modelpar.cli.preparation import check_data, check_memory, network_spec
from modelpar.cli.progress import TrainingProgress
from modelpar.cli.recorded_paths import check_there
from modelpar.cli.restarts import counted_restart
from modelpar.cli.run_directory import RunDirectory
from modelpar.cli.run_lock import RunLock
from modelpar.cli.session import Session
from modelpar.cli.stopping import Stopping
from modelpar.cli.threads import Placement
from modelpar.comm.grid import Grid
from modelpar.comm.watchdog import Watchdog, names_of_ranks
from modelpar.data import open_dataset
from modelpar.errors import ModelparError
from modelpar.ownership.layout import NetworkLayout
from modelpar.ownership.placement import place
from modelpar.plan.resolve import resolve
from modelpar.spec import NetworkSpec
from modelpar.sync.server_loop import dismiss, serve


def train(
    comm: MPI.Comm, settings: Settings, placement: Placement, *, resume: bool, overwrite: bool,
    max_restarts: int | None = None, accept_other_data: bool = False,
) -> None:  # fmt: skip
    """Train according to the settings, with all results in the run directory.  Collective.

    accept_other_data   a run that is resumed may go on with other data than it was started with

    Where MPI tolerates a lost rank, the others go on without its replica.
    """
    if resume and max_restarts is None and settings.run.run_dir is not None:
        RunDirectory(comm, settings.run.run_dir).check_begun()
    if resume and settings.run.run_dir is not None and settings.config is None:
        RunDirectory(comm, settings.run.run_dir).check_configuration()
    check_run_directory(comm, settings, settings.run.run_dir)
    with closing(RunLock()) as lock:
        if settings.run.run_dir is not None:  # before anything is read that another job may be writing
            lock.take(comm, Path(settings.run.run_dir), only_if_there=True)
        crew = _train(
            comm, settings, placement, lock, resume=resume, overwrite=overwrite, max_restarts=max_restarts,
            accept_other_data=accept_other_data,
        )  # fmt: skip
    if crew.has_lost:
        crew.comm.Barrier()  # no rank ends while another still needs it
        leave(0)


def _train(
    comm: MPI.Comm, settings: Settings, placement: Placement, lock: RunLock, *, resume: bool, overwrite: bool,
    max_restarts: int | None, accept_other_data: bool,
) -> Crew:  # fmt: skip
    """As ``train``; the ranks that have come to the end."""
    with Stopping(comm) as stopping, counted_restart(comm, settings.run.run_dir, max_restarts, resume=resume):
        crew = Crew.of(comm, grid_of(comm, settings, placement), settings.grid.servers)
        while True:
            attempt = Attempt(
                settings, placement, crew, lock, stopping, resume=resume, overwrite=overwrite,
                accept_other_data=accept_other_data,
            )  # fmt: skip
            try:
                with ends_by_itself(crew):
                    attempt.run()
                return crew
            except Exception as error:
                crew = crew.without_lost(error, attempt)


class Attempt:
    """Training on one grid; there is another attempt only after a lost rank."""

    def __init__(
        self, settings: Settings, placement: Placement, crew: Crew, lock: RunLock, stopping: Stopping, *,
        resume: bool, overwrite: bool, accept_other_data: bool,
    ) -> None:  # fmt: skip
        self.settings, self.placement, self.crew = settings, placement, crew
        self.lock, self.stopping = lock, stopping
        self.resume, self.overwrite, self.accept_other_data = resume, overwrite, accept_other_data
        self.grid: Grid | None = None
        self.session: Session | None = None

    def run(self) -> None:
        """Collective over the crew."""
        crew, timeout = self.crew, self.settings.run.stall_timeout
        with Grid(crew.comm, model_shards=crew.model_shards, replicas=crew.replicas, servers=crew.servers) as self.grid:
            names = names_of_ranks(crew.comm, self.grid.role)
            with (
                named_when_killed(crew.comm, names) as leave,
                Watchdog(crew.comm, self.grid.status, timeout, names=names, say=print, leave=leave) as watchdog,
            ):
                self.stopping.watch(self.grid.status, leave)
                self._work(self.grid, watchdog)

    def _work(self, grid: Grid, watchdog: Watchdog) -> None:
        """Serve parameters, or train."""
        if grid.is_server:
            with self.stopping.steps("the run directory"), watchdog.status.phase("serving"):
                serve(grid)
            return
        try:
            self._train(grid, watchdog)
        except (ModelparError, OSError) as error:
            dismiss(grid, error)
            raise
        dismiss(grid)

    def _layout(self, spec: NetworkSpec, grid: Grid, resumed: RunDirectory | None) -> NetworkLayout:
        asked = self.settings.grid
        spec, owners = with_layout(spec, grid, self.crew.layout)
        if asked.partitioner or asked.partition or spec.has_lists:
            # the file of a mask may be gone, and pruned connections are only in checkpoints
            connections = resumed.connections(spec) if resumed is not None and spec.has_lists else None
            owners = place(
                spec,
                grid.n_shards,
                grid.comm,
                partitioner=asked.partitioner,
                file=asked.partition,
                connections=connections,
            )
        return resolve(spec, grid, owners)

    def _train(self, grid: Grid, watchdog: Watchdog) -> None:
        settings = self.settings
        if self.resume:
            check_there(grid.comm, settings.before.get("data", {}), settings.asked.get("data", {}))
        with watchdog.status.phase("opening data"):
            asked = settings.network()
            dataset = open_dataset(settings.data, grid.comm, visible=asked.visible, seed=asked.seed)
        spec = network_spec(settings, dataset)
        check_memory(settings, spec, grid)
        directory = RunDirectory.choose(grid.comm, self.crew.run_dir or settings.run.run_dir, dataset.name, self.lock)
        # after a lost rank the files in the directory are those of this crew
        resume, overwrite = self.resume or self.crew.has_begun, self.overwrite or self.crew.has_begun
        directory.check(resume=resume, overwrite=overwrite)
        layout = self._layout(spec, grid, directory if resume else None)
        check_data(settings, spec, layout, grid, dataset)
        with TrainingProgress() as progress, closing(directory):
            self.session = Session(
                settings, spec, layout, grid, dataset, directory, self.placement, progress, watchdog, self.stopping
            )
            self.session.run(
                resume=resume, overwrite=self.overwrite, accept_other_data=self.accept_other_data,
                survivor=self.crew.survivor, message=self.crew.message,
            )  # fmt: skip
