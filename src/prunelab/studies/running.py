"""Run the settings of a study that have not been measured yet, each as one DVC experiment."""

import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from prunelab.artifacts.files import read_json
from prunelab.errors import Refused
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

    def setting(self, label: str, params: Parameters, name: str, place: str) -> None:
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
                clone.dvc(
                    "repro", TARGET, log=log, said=lambda line: self._stage(place, label, line), started=self.started
                )
                clone.keep_environment()
                clone.save(name, f"study {self.study}: {label}", log, self.started)
                accuracy = read_json(clone.folder / METRICS)["accuracy"]
            self.tell(f"[{place}] {label}: accuracy {accuracy:.2%} after {time.monotonic() - begun:,.0f} s")
        except (Failed, Refused, OSError) as error:
            if not self.stopped.is_set():
                self.failures[label] = _last_lines(log_path) or str(error)
                self.tell(f"[{place}] {label}: FAILED, the others go on ({log_path.relative_to(self.root)})")

    def _stage(self, place: str, label: str, line: str) -> None:
        if found := re.match(r"Running stage '([^']+)'", line):
            self.tell(f"[{place}] {label}: {found[1]}")

    def stop(self) -> None:
        self.stopped.set()
        for process in list(self.started):
            process.terminate()


def _last_lines(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    return "\n".join(lines[-TOLD_LINES:])


def check_needs(study: Study, quick: bool, overrides: Mapping[str, Any]) -> None:
    """Raise Refused for every parameter that the study leaves to the user and the user has not given."""
    missing = {key: what for key, what in study.needed(quick).items() if key not in overrides}
    if missing:
        raise Refused(f"{key} is needed: {what}; give it with --set {key}=…" for key, what in missing.items())


def check_settings(root: Path, settings: Settings) -> None:
    """Look for everything that can be found wrong with any setting before any work starts.

    Raises:
        Refused: with one line per problem, all of them at once, naming the settings that have it.
    """
    from prunelab.checks import find_problems

    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        for label, params in settings.items():
            # The grid does not run here, so it must not be what a setting is refused for.
            own = {**params, "grid": {"methods": [params["method"]], "ratios": [params["ratio"]]}}
            YAML(typ="safe").dump(own, path)
            told = find_problems(path, raw=root / RAW, base=Path(folder))
            for problem in [line.removeprefix(f"{path}: ") for line in told] + _left_behind(root, params):
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
    pending = {}
    for label, params in settings.items():
        mine = [
            record for record in measured(root, name, label) if used.used(record["parameters"]) == used.used(params)
        ]
        found = best(mine, code)
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
                        experiment_name(name, label, used.used(pending[label])),
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
