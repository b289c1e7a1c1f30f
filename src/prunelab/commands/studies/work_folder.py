"""The folder in which `study run --here` works: one folder for every stage that has run.

The folder of a stage has the name of the stage and a hash of all that its outputs depend on, and
looks like the project's own: outputs of earlier stages are links. Settings share the stages that
they have in common. `stage.json`, written last, has the hashes of the outputs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from prunelab.artifacts.records import Strict, read_record
from prunelab.config.params import PARAMS_FILE
from prunelab.core.errors import InputError
from prunelab.core.files import json_form, parse_json, replacing, sha256, user_path, write_json
from prunelab.core.locks import try_lock
from prunelab.project.experiments import digest
from prunelab.project.paths import RAW
from prunelab.project.stage_commands import PipelineStage

LOCK_FILE = "lock"
OWNER_FILE = "work.json"
DONE_FILE = "stage.json"
SPENT_FILE = "spent.json"
SHARED_PATHS = (str(RAW), "plugins")  # of the project, which every stage may read


class Done(Strict):
    """The content of stage.json: outputs by path with their SHA-256, and what they took."""

    stage: str
    outputs: dict[str, str]
    seconds: float
    epochs: int


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage."""

    stage: PipelineStage
    path: Path
    inputs: Mapping[str, "StageFolder"]

    @property
    def is_done(self) -> bool:
        return (self.path / DONE_FILE).exists()

    def done(self) -> dict[str, Any]:
        """Return what stage.json says, after a look at every output.

        Raises:
            InputError: if an output is missing or was changed after it was written.
        """
        record = read_record(self.path / DONE_FILE, Done)
        for path, expected in record["outputs"].items():
            file = self.path / path
            if not file.exists():
                raise InputError(f"{file} is missing. Delete {self.path} to make it again.")
            if sha256(file) != expected:
                raise InputError(
                    f"{file} was changed after it was written. Delete {self.path} to make it again."
                )
        return record

    def spent(self) -> float:
        """Return the seconds that unfinished runs of the stage took; a damaged note counts as 0."""
        file = self.path / SPENT_FILE
        if not file.exists():
            return 0.0
        try:
            return float(parse_json(file.read_bytes()))
        except (InputError, TypeError, ValueError):
            return 0.0

    def note_spent(self, seconds: float) -> None:
        write_json(self.path / SPENT_FILE, self.spent() + seconds)

    def finish(self, seconds: float, epochs: int) -> None:
        """Note that the stage is complete."""
        hashes = {}
        for file in self._output_files():
            hashes[file.relative_to(self.path).as_posix()] = sha256(file)
        done = {
            "stage": self.stage.name,
            "outputs": hashes,
            "seconds": self.spent() + seconds,
            "epochs": epochs,
        }
        write_json(self.path / DONE_FILE, done)

    def _output_files(self) -> Iterator[Path]:
        for output in self.stage.outputs:
            path = self.path / output
            if path.is_dir():
                yield from sorted(file for file in path.rglob("*") if file.is_file())
            elif path.exists():
                yield path

    def set_up(self, root: Path, params: Mapping[str, Any]) -> None:
        """Write params.yaml, and link what the stage reads."""
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / PARAMS_FILE) as partial:
            YAML(typ="safe").dump(dict(params), partial)

        for path, folder in self.inputs.items():
            _link(self.path / path, folder.path / path)
        for shared in (*SHARED_PATHS, *_own_files(params)):
            if (root / shared).exists():
                _link(self.path / shared, root / shared)


def _own_files(params: Mapping[str, Any]) -> Iterator[str]:
    """Yield the relative paths outside data/raw that parameters name."""
    data = params["data"]
    for path in (params["weights"], data.get("source"), data.get("table")):
        if not isinstance(path, str) or user_path(path).is_absolute():
            continue
        if not Path(path).is_relative_to(RAW):
            yield path


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve())


@dataclass(frozen=True)
class WorkFolder:
    """The folder given by --work. `identity` is all else on which outputs depend."""

    path: Path
    identity: Mapping[str, Any]

    def claim(self, owner: Mapping[str, Any]) -> None:
        """Take the folder for a study, at a scale, by some code.

        Raises:
            InputError: if it belongs to another one, or holds something else.
        """
        file = self.path / OWNER_FILE
        owner = json_form(dict(owner))
        if not file.exists():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise InputError(
                    f"--work {self.path}: the folder holds something else. Give an empty or a new "
                    "folder."
                )
            write_json(file, owner)
            return

        try:
            before = parse_json(file.read_bytes())
        except InputError:
            before = None
        if not isinstance(before, dict):
            raise InputError(f"{file} is damaged. Give another folder, or delete this one.")
        different = [key for key in owner if before.get(key) != owner[key]]
        if different:
            what = ", ".join(
                f"{key} {before.get(key)!r} instead of {owner[key]!r}" for key in different
            )
            raise InputError(
                f"--work {self.path}: the folder belongs to another run ({what}). Give another "
                "folder, or delete this one."
            )

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Hold the folder for this process alone.

        Raises:
            InputError: if another run uses it.
        """
        with try_lock(self.path / LOCK_FILE) as held:
            if not held:
                raise InputError(
                    f"--work {self.path}: another run uses this folder. Wait until it has ended, "
                    "or give another folder."
                )
            yield

    def folders(
        self, stages: list[PipelineStage], input_hashes: Mapping[str, Any]
    ) -> list[StageFolder]:
        """Return the folders of the stages of one setting, in their order."""
        folders: dict[str, StageFolder] = {}
        for stage in stages:
            inputs = {path: folders[writer] for path, writer in stage.inputs.items()}

            content = [
                stage.name,
                [[call.module, call.arguments] for call in stage.calls],
                stage.parameters,
                {path: folder.path.name for path, folder in inputs.items()},
                input_hashes,
                self.identity,
            ]

            path = self.path / f"{stage.name}-{digest(content)}"
            folders[stage.name] = StageFolder(stage, path, inputs)
        return list(folders.values())
