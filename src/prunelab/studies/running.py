"""Run the settings of a study that have not been measured yet, each as one DVC experiment."""

import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from prunelab.artifacts.files import read_json
from prunelab.errors import Refused
from prunelab.params import Params
from prunelab.studies.checkouts import FOLDER, RAW, Failed, cache_folder, checkout
from prunelab.studies.experiments import (
    METRICS,
    TARGET,
    best,
    chain,
    code_of,
    digest,
    experiment_name,
    git,
    measured,
    uncommitted,
)
from prunelab.studies.files import Study, told_of

DENSE_TARGET = "evaluate_base"
OWN = ("method", "ratio", "budget", "prune", "finetune")  # what settings of a study differ in
TOLD_LINES = 15
PATHS = ("weights", "data.source")

Parameters = Mapping[str, Any]
Settings = Mapping[str, Parameters]


@dataclass
class Run:
    """A study under way: `failures` holds the last lines of the log of every setting that failed."""

    root: Path
    study: str
    revision: str
    cache: Path
    slots: int
    tell: Callable[[str], None]
    failures: dict[str, str] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)
    started: set[subprocess.Popen] = field(default_factory=set)

    def setting(self, label: str, params: Parameters, held: Mapping[str, Any], name: str, place: str) -> None:
        """Measure one setting; whatever goes wrong with it is noted, so that the others go on."""
        if self.stopped.is_set():
            return
        log_path = self.root / FOLDER / "logs" / f"{name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        try:
            with checkout(self.root, name, self.slots) as clone, log_path.open("w") as log:
                self.tell(f"[{place}] {label}: started")
                clone.start(name, self.revision, params, self.cache)
                dvc = partial(clone.dvc, log=log, said=partial(self._stage, place, label), started=self.started)
                _renew(clone.folder, params, held, dvc)
                dvc("repro", TARGET)
                clone.keep_environment()
                clone.save(name, f"study {self.study}: {label}", log, self.started)
                accuracy = read_json(clone.folder / METRICS)["accuracy"]
            self.tell(f"[{place}] {label}: accuracy {accuracy:.2%} after {time.monotonic() - begun:,.0f} s")
        except (Failed, Refused, OSError) as error:
            if not self.stopped.is_set():
                self.failures[label] = last_lines(log_path) or str(error)
                self.tell(f"[{place}] {label}: FAILED, the others go on ({log_path.relative_to(self.root)})")

    def _stage(self, place: str, label: str, line: str) -> None:
        if found := re.match(r"Running stage '([^']+)'", line):
            self.tell(f"[{place}] {label}: {found[1]}")

    def stop(self) -> None:
        self.stopped.set()
        for process in list(self.started):
            process.terminate()


def _renew(folder: Path, params: Parameters, held: Mapping[str, Any], dvc: Callable[..., None]) -> None:
    """Do the stages again whose outputs, kept here or in DVC's cache, were made from other content of the same name."""
    from prunelab.checks import BASE, data_changed, weights_changed

    parsed = Params.model_validate(params)
    for key, stage, changed in (
        ("data.source", "prepare", partial(data_changed, parsed, folder / RAW)),
        ("weights", "train_base", partial(weights_changed, parsed, folder / BASE)),
    ):
        if key in held:
            dvc("repro", stage)
            if changed():
                dvc("repro", "--force", "--single-item", stage)


def last_lines(path: Path) -> str:
    """The end of a log, for people to read."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    return "\n".join(lines[-TOLD_LINES:])


def check_needs(study: Study, quick: bool, overrides: Mapping[str, Any]) -> None:
    """Raise Refused for every parameter that the study leaves to the user and the user has not given."""
    missing = {key: what for key, what in study.needed(quick).items() if key not in overrides}
    if missing:
        raise Refused(f"{key} is needed: {what}; give it with --set {key}=…" for key, what in missing.items())


def check_amounts(study: Study) -> None:
    """Raise Refused for an amount per round of a method that has no rounds."""
    from prunelab.pruning.methods import METHODS
    from prunelab.pruning.schedules import iterative

    wrong = [
        setting
        for setting in study.settings
        if setting.prune_fraction and setting.method in METHODS and METHODS[setting.method].schedule is not iterative
    ]
    if wrong:
        raise Refused(
            f"settings: {setting.label}: prune_fraction is what each of several rounds removes, and {setting.method} "
            "has no rounds; give ratio or times_fewer"
            for setting in wrong
        )


def check_settings(root: Path, settings: Settings) -> None:
    """Look for everything that can be found wrong with any setting before any work starts.

    Raises:
        Refused: with one line per problem, all of them at once, naming the settings that have it.
    """
    from prunelab.checks import CHECKS, find_problems, reachable

    found: dict[str, list[str]] = {}
    looked_into: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"

        def problems(params: Parameters, checks: Sequence[Any]) -> list[str]:
            # The grid does not run here, so it must not be what a setting is refused for.
            own = {**params, "grid": {"methods": [params["method"]], "ratios": [params["ratio"]]}}
            YAML(typ="safe").dump(own, path)
            told = find_problems(path, raw=root / RAW, base=Path(folder), checks=checks)
            return [line.removeprefix(f"{path}: ") for line in told]

        for label, params in settings.items():
            # Data and weights, which most settings share, are read once.
            shared = digest({key: its for key, its in params.items() if key not in OWN})
            if shared not in looked_into:
                looked_into[shared] = problems(params, [check for check in CHECKS if check is not reachable])
            for problem in dict.fromkeys(
                looked_into[shared] + problems(params, [reachable]) + _left_behind(root, params)
            ):
                if not problem.startswith("grid."):
                    found.setdefault(problem, []).append(label)
    if found:
        raise Refused(told_of(found, len(settings)))


def _left_behind(root: Path, params: Parameters) -> list[str]:
    """Files that a setting names and its checkout would not have."""
    problems = []
    for key in PATHS:
        section, _, inner = key.partition(".")
        value = params[section][inner] if inner else params[section]
        if not value or Path(value).is_absolute() or not (root / value).exists():
            continue
        if not Path(value).is_relative_to(RAW) and not git(root, "ls-files", "--", str(value)):
            problems.append(
                f"{key}: {value} is neither under {RAW} nor in Git, and studies run in a checkout of their own; "
                "put it there, or give an absolute path"
            )
    return problems


def contents_of(root: Path, settings: Settings) -> dict[str, Mapping[str, Any]]:
    """What lies behind the names that the user gave, by setting; read once where settings share it."""
    from prunelab.checks import contents

    known: dict[str, Mapping[str, Any]] = {}
    found = {}
    for label, params in settings.items():
        key = digest([params["dataset"], params["data"], params["model"], params["weights"]])
        if key not in known:
            known[key] = contents(Params.model_validate(params), root / RAW)
        found[label] = known[key]
    return found


def run_study(root: Path, name: str, settings: Settings, *, jobs: int, tell: Callable[[str], None]) -> dict[str, str]:
    """Run what has not been measured by this code with these parameters; return the failures, log's end by setting.

    With several jobs, one setting of every dense network goes first: the others then find that network in DVC's cache.

    Raises:
        Refused: if files that the numbers rest on differ from the last commit.
    """
    used = chain((root / "dvc.yaml").read_text())
    if changed := uncommitted(root, used):
        raise Refused(
            f"{path} differs from the last commit; studies run that commit, so that results name one: commit it, or "
            "put it aside with git stash"
            for path in changed
        )
    revision = git(root, "rev-parse", "HEAD").strip()
    code = code_of(root, revision)
    held = contents_of(root, settings)
    names = {label: experiment_name(name, label, used.used(its), held[label]) for label, its in settings.items()}
    pending = {}
    for label, params in settings.items():
        found = best([record for record in measured(root, name, label) if record["experiment"] == names[label]], code)
        if found and found["code"] == code:
            tell(f"{label}: measured already ({found['experiment']})")
        else:
            pending[label] = params
    if not pending:
        return {}
    run = Run(root, name, revision, cache_folder(root), jobs, tell)
    dense = chain((root / "dvc.yaml").read_text(), DENSE_TARGET)
    first = (
        {digest(dense.used(params)): label for label, params in reversed(pending.items())}.values() if jobs > 1 else ()
    )
    place = {label: f"{number}/{len(pending)}" for number, label in enumerate(pending, start=1)}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for wave in (
                [label for label in pending if label in first],
                [label for label in pending if label not in first],
            ):
                waiting = [
                    pool.submit(
                        run.setting,
                        label,
                        pending[label],
                        held[label],
                        names[label],
                        place[label],
                    )
                    for label in wave
                ]
                for task in waiting:
                    task.result()
        except BaseException:
            run.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return run.failures
