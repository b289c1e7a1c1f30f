"""Run the settings of a study in this process, by the stages' own functions.

Neither DVC nor a clone is needed. Git is asked only which commit this is, where there is a
repository. What runs, and with which arguments, stands in dvc.yaml.
"""

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from shutil import copytree

from prunelab.commands.studies.jobs import PrintLine, Settings, hash_inputs
from prunelab.commands.studies.origin import Origin
from prunelab.commands.studies.results import (
    is_result_of,
    read_stored,
    results_file,
    write_results,
)
from prunelab.commands.studies.scale import FULL, key_of
from prunelab.commands.studies.study_file import Study
from prunelab.commands.studies.time_plan import TimePlan, epochs_of
from prunelab.commands.studies.work_folder import StageFolder, WorkFolder
from prunelab.config.params import Params, Runtime
from prunelab.core.errors import InputError
from prunelab.core.files import sha256
from prunelab.project.experiments import Record, environment_of, experiment_name, stage_closure
from prunelab.project.metrics import read_metrics
from prunelab.project.paths import DENSE_METRICS, ENVIRONMENT, METRICS, PIPELINE_FILE
from prunelab.project.stage_commands import PipelineStage, stages_before
from prunelab.runtime.device import configure, decisive, fingerprint
from prunelab.runtime.time_limit import OutOfTimeError, time_limit
from prunelab.training.checkpoints import code_known_as

PREPARED = Path("data/prepared")
PICTURES = "plot"  # stages whose names begin so draw: they are left out
_GPU_FAILURE = re.compile("CUDA|NCCL|cuDNN|HIP error|device-side", re.IGNORECASE)


@dataclass(frozen=True)
class HereRun:
    """What to run, and where.

    `name` is that of the result file. `settings` holds whole parameters, scaled already, of all
    settings of the study, and `only` names those to run. `prepared` is a folder as the stage
    prepare writes it, in place of running that stage. `results_in` is the folder with
    studies/results/.
    """

    root: Path
    name: str
    study: Study
    settings: Settings
    only: list[str]
    work: Path
    origin: Origin
    results_in: Path
    scale: float = FULL
    images: int | None = None
    prepared: Path | None = None
    minutes: float | None = None

    @property
    def chosen(self) -> Settings:
        """The settings to run."""
        return {label: self.settings[label] for label in self.only}


@dataclass
class Outcome:
    """What a run has measured, what is left for want of time, and why settings failed."""

    records: dict[str, Record] = field(default_factory=dict)
    left: dict[str, float | None] = field(default_factory=dict)  # expected seconds, where known
    failures: dict[str, str] = field(default_factory=dict)


def run_here(run: HereRun, print_line: PrintLine) -> Outcome:
    """Measure the settings that were not measured yet, as far as the minutes go.

    Every finished setting is written to the results at once.

    Raises:
        InputError: if the work folder is not usable, if settings cannot share a process, or if
            the minutes are too few for a single epoch.
    """
    started = time.monotonic()
    execution = configure(shared_runtime(run.chosen))
    identity = decisive(fingerprint(execution)) | {"images": run.images}
    if run.prepared:
        identity["prepared"] = sha256(run.prepared / "dataset.json")

    work = WorkFolder(run.work.resolve(), identity)
    work.claim({"study": run.name, "scale": run.scale, "code": run.origin.code})

    deadline = None
    if run.minutes is not None:
        deadline = started + 60 * run.minutes
    with work.reserved(), code_known_as(run.origin.code):
        return _Runner(run, work, deadline, print_line).run()


def shared_runtime(settings: Settings) -> Runtime:
    """The section runtime of settings that run in one process, which can have only one.

    Raises:
        InputError: if they differ in it, or if it asks for several processes.
    """
    sections = []
    for params in settings.values():
        if params["runtime"] not in sections:
            sections.append(params["runtime"])
    if len(sections) > 1:
        raise InputError(
            "runtime: settings differ in it, and one process has one. Leave out --here, or give "
            "the settings that agree with --only."
        )

    if sections[0]["processes"] > 1:
        raise InputError("runtime.processes: --here trains in one process; valid: 1")
    return Params.model_validate(next(iter(settings.values()))).runtime


class _Runner:
    """The state of one run."""

    def __init__(
        self, run: HereRun, work: WorkFolder, deadline: float | None, print_line: PrintLine
    ) -> None:
        self._run = run
        self._work = work
        self._deadline = deadline
        self._print_line = print_line
        self._plan = TimePlan()
        self._outcome = Outcome()
        self._progressed = False
        self._pipeline = (run.root / PIPELINE_FILE).read_text()
        self._closure = stage_closure(self._pipeline)
        self._hashes = hash_inputs(run.root, run.chosen)

    def run(self) -> Outcome:
        folders_by_label = {label: self._folders(label) for label in self._run.only}
        self._learn_from_finished(folders_by_label)

        for number, (label, folders) in enumerate(folders_by_label.items(), start=1):
            title = f"[{number}/{len(folders_by_label)}] {label}"
            try:
                self._measure(label, folders, title)
            except InputError as error:
                self._outcome.failures[label] = str(error)
                self._print_line(f"{title}: FAILED, the others go on")
            except OutOfTimeError:
                self._outcome.left[label] = self._expected(label, folders)
            except RuntimeError as error:
                _report_lost_gpu(error, title)
                raise

        self._require_progress(folders_by_label)
        return self._outcome

    def _learn_from_finished(self, folders_by_label: Mapping[str, list[StageFolder]]) -> None:
        """Learn what every finished stage took; settings that share it read its outputs once."""
        finished = {}
        for folders in folders_by_label.values():
            for folder in folders:
                if folder.is_done:
                    finished[folder.path] = folder
        for folder in finished.values():
            self._plan.learn(folder)

    def _folders(self, label: str) -> list[StageFolder]:
        stages = stages_before(self._pipeline, self._run.settings[label])
        return self._work.folders(stages, self._hashes[label])

    def _measure(self, label: str, folders: list[StageFolder], title: str) -> None:
        """Measure a setting, or read what was measured; leave it if it would not end in time."""
        is_done = folders[-1].is_done
        if not is_done:
            stored = self._stored(label)
            if stored:
                self._outcome.records[label] = stored
                self._print_line(f"{title}: measured already")
                return
            if not self._fits(label, folders):
                self._outcome.left[label] = self._expected(label, folders)
                return
            start = time.monotonic()
            self._run_stages(label, folders, title)

        record = self._record(label, folders)
        self._outcome.records[label] = record
        accuracy = f"accuracy {record['metrics']['accuracy']:.2%}"
        if is_done:
            self._print_line(f"{title}: measured already, {accuracy}")
        else:
            self._print_line(f"{title}: {accuracy} after {time.monotonic() - start:,.0f} s")
        self._write_results()

    def _stored(self, label: str) -> Record | None:
        """The stored result of a setting, if this code measured it with the same parameters."""
        run = self._run
        results = read_stored(results_file(run.results_in, run.name))
        stored = results.get(key_of(label, run.scale))
        if stored is None:
            return None

        params, code = run.settings[label], run.origin.code
        if not is_result_of(stored, params, self._closure, code=code, images=run.images):
            return None
        return stored

    def _fits(self, label: str, folders: list[StageFolder]) -> bool:
        """Whether a setting should start: it will end in time, or needs more than one call."""
        if self._deadline is None:
            return True
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            return False
        expected = self._expected(label, folders)
        assert self._run.minutes is not None
        return expected is None or expected <= remaining or expected > 60 * self._run.minutes

    def _expected(self, label: str, folders: list[StageFolder]) -> float | None:
        pending = [folder for folder in folders if not folder.is_done]
        return self._plan.seconds(pending, self._run.settings[label])

    def _run_stages(self, label: str, folders: list[StageFolder], title: str) -> None:
        for folder in folders:
            if folder.is_done:
                folder.done()  # an output that was edited is no input of the next stage
                continue
            self._print_line(f"{title}: {folder.stage.name}")
            self._run_stage(label, folder)
            self._progressed = True
            self._plan.learn(folder)

    def _run_stage(self, label: str, folder: StageFolder) -> None:
        run, params = self._run, self._run.settings[label]
        folder.set_up(run.root.resolve(), params)
        log = self._work.path / "logs" / f"{label}.log"
        log.parent.mkdir(exist_ok=True)

        start = time.monotonic()
        try:
            with time_limit(self._deadline), log.open("a") as output, redirect_stdout(output):
                self._call(folder.stage, folder.path)
        except BaseException:
            folder.note_spent(time.monotonic() - start)
            raise
        folder.finish(time.monotonic() - start, epochs_of(folder.stage.name, params))

    def _call(self, stage: PipelineStage, path: Path) -> None:
        """Call the functions of a stage in its folder."""
        is_prepare = stage.name == "prepare"
        if is_prepare and self._run.prepared:
            copytree(self._run.prepared, path / PREPARED, dirs_exist_ok=True)
            return

        call = import_module("prunelab.stages.entry").call
        for command in stage.calls:
            if command.module.startswith(PICTURES):
                continue
            module = f"prunelab.stages.{command.module}"
            with chdir(path), _arguments(module, command.arguments):
                call(import_module(module).main, command.arguments)

        if is_prepare and self._run.images is not None:
            from prunelab.commands.studies.fewer_images import keep_images

            keep_images(path / PREPARED, self._run.images)

    def _record(self, label: str, folders: list[StageFolder]) -> Record:
        """Return the result of a finished setting, as DVC's experiments give it."""
        run, params = self._run, self._run.settings[label]
        by_stage = {folder.stage.name: folder for folder in folders}
        pruned, dense = by_stage["evaluate_focus"], by_stage["evaluate_base"]
        pruned.done()
        dense.done()

        environment = environment_of(
            (pruned.path / ENVIRONMENT).read_bytes(), (pruned.path / METRICS).read_bytes()
        )
        name = experiment_name(run.name, label, self._closure.select(params), self._hashes[label])
        return {
            "experiment": name,
            "baseline": run.origin.commit,
            "code": run.origin.code,
            "parameters": dict(params),
            "metrics": read_metrics(METRICS, lambda path: (pruned.path / path).read_text()),
            "dense": read_metrics(DENSE_METRICS, lambda path: (dense.path / path).read_text()),
            "environment": environment and environment | {"commit": run.origin.commit},
            "scale": run.scale,
            "images": run.images,
        }

    def _write_results(self) -> None:
        records = {label: self._outcome.records.get(label) for label in self._run.settings}
        write_results(self._run.results_in, self._run.study, self._run.name, records)

    def _require_progress(self, folders_by_label: Mapping[str, list[StageFolder]]) -> None:
        """Refuse minutes in which not even an epoch ends."""
        outcome = self._outcome
        if self._progressed or outcome.records or outcome.failures or not outcome.left:
            return

        for folders in folders_by_label.values():
            for folder in folders:
                if any((folder.path / ".prunelab").rglob("*.pt")):
                    return

        raise InputError(
            f"--minutes {self._run.minutes:g} is too small: not a single epoch ended. Give more "
            "minutes, or a smaller --scale."
        )


@contextmanager
def _arguments(module: str, arguments: tuple[str, ...]) -> Iterator[None]:
    """Show a stage the arguments that it would have as a program: checkpoints depend on them."""
    before = sys.argv
    sys.argv = [module, *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _report_lost_gpu(error: RuntimeError, title: str) -> None:
    """Raise an InputError if the GPU failed, rather than the program."""
    if "out of memory" in str(error) or not _GPU_FAILURE.search(str(error)):
        return
    reason = str(error).partition("\n")[0]
    raise InputError(
        f"{title}: the GPU failed ({reason}). Finished settings and epochs are kept. Run the same "
        "command again to continue."
    ) from None
