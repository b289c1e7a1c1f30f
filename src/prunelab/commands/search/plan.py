"""What a search is, before any work: the request, checked; where its state lies; its jobs."""

import json
import shlex
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prunelab.commands.search.space import OBJECTIVES, Objective
from prunelab.commands.studies.jobs import DENSE_TARGET, Job, hash_inputs
from prunelab.commands.studies.study_file import override
from prunelab.commands.studies.validate import check_settings
from prunelab.config.params import PARAMS_FILE, Params, load_params, parse_params, read_params
from prunelab.core.errors import InputError
from prunelab.core.files import write
from prunelab.core.mappings import flatten
from prunelab.project.experiments import (
    StageClosure,
    current_code,
    digest,
    experiment_name,
    require_committed,
    stage_closure,
)
from prunelab.project.git import git

NAME = "search"  # the experiments of every search begin with it
FOLDER = Path(".prunelab/search")
LAST = FOLDER / "last"
LABEL = "all"  # of the settings that are checked before any work
# The focus of params.yaml is what a search chooses.
CHOSEN = ("method", "ratio", "budget")


@dataclass(frozen=True)
class Request:
    """What is asked for: at most `max_drop` points less accuracy than the dense network.

    `overrides` replace values of params.yaml, by dotted key.
    """

    max_drop: float
    minimise: str
    batch_size: int
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def objective(self) -> Objective:
        return OBJECTIVES[self.minimise]

    @property
    def max_drop_share(self) -> float:
        """The drop that is allowed, as a share."""
        return self.max_drop / 100

    def command(self) -> str:
        """The command that asks for this."""
        text = f"prunelab search --max-drop {self.max_drop:g} --minimise {self.minimise}"
        if self.batch_size > 1:
            text += f" --batch-size {self.batch_size}"
        for key, value in self.overrides.items():
            text += f" --set {shlex.quote(f'{key}={json.dumps(value)}')}"
        return text


@dataclass(frozen=True)
class Where:
    """Where tries run: so many at a time here, or on the Ray cluster at an address."""

    jobs: int
    address: str | None
    git_remote: str
    cpus_per_task: float | None
    gpus_per_task: float | None


@dataclass(frozen=True)
class Plan:
    """A search that can begin.

    `tree` are the parameters in params.yaml. `base` are those with the request's overrides, which
    tries change.
    """

    root: Path
    revision: str
    code: str
    request: Request
    tree: Mapping[str, Any]
    base: Mapping[str, Any]
    params: Params
    hashes: Mapping[str, Any]
    focus: StageClosure
    dense: StageClosure

    @property
    def identity(self) -> dict[str, Any]:
        """What two starts of the same search have in common."""
        used = {
            key: value for key, value in self.focus.select(self.base).items() if key not in CHOSEN
        }
        return {
            "code": self.code,
            "inputs": dict(self.hashes),
            "parameters": flatten({**used, "search": self.base["search"]}),
        }

    @property
    def folder(self) -> Path:
        """Where the state of this search lies: another request or code has another folder."""
        return self.root / FOLDER / digest([asdict(self.request), self.identity])

    @property
    def first_seed(self) -> list[int]:
        return [self.params.seeds[0]]

    def job(self, params: Mapping[str, Any], label: str) -> Job:
        """The job that measures the focus of these parameters."""
        setting = f"{params['model']}-{params['method']}-{params['ratio']}"
        name = experiment_name(NAME, setting, self.focus.select(params), self.hashes)
        key = digest([self.dense.select(params), self.hashes])
        return Job(label, name, params, self.hashes, key)

    def remember(self) -> None:
        """Make this the search that `--resume`, `--status` and `--stop` are about."""
        write(self.root / LAST, f"{self.folder.name}\n".encode())


def check_request(request: Request) -> None:
    """Raise InputError for a drop or an objective that makes no sense."""
    if not 0 <= request.max_drop <= 100:
        raise InputError(
            f"--max-drop: {request.max_drop:g} is no drop in points of accuracy; valid: 0 to 100, "
            "such as 0.5"
        )
    if request.minimise not in OBJECTIVES:
        raise InputError(
            f"--minimise: unknown objective {request.minimise!r}; valid: {', '.join(OBJECTIVES)}"
        )


def make_plan(root: Path, request: Request, *, elsewhere: bool) -> Plan:
    """Check everything that can be checked before any work.

    `elsewhere` means that tries run on other machines.

    Raises:
        InputError: with one line per problem.
    """
    check_request(request)
    load_params(PARAMS_FILE)
    tree = read_params(PARAMS_FILE)
    base = deepcopy(tree)
    override(base, request.overrides)
    params = parse_params(base, option="--set")
    _check_seeds(params)
    _check_layer_ratios(params)
    check_settings(root, {LABEL: _checkable(base)}, elsewhere=elsewhere)

    pipeline = (root / "dvc.yaml").read_text(encoding="utf-8")
    focus = stage_closure(pipeline)
    require_committed(root, focus, "every try runs the code of that commit")

    return Plan(
        root=root,
        revision=git(root, "rev-parse", "HEAD").strip(),
        code=current_code(root),
        request=request,
        tree=tree,
        base=base,
        params=params,
        hashes=hash_inputs(root, {LABEL: base})[LABEL],
        focus=focus,
        dense=stage_closure(pipeline, DENSE_TARGET),
    )


def _checkable(base: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with a focus that removes nothing; what is chosen is checked later."""
    prune = {**base["prune"], "layer_ratios": {}, "protect": []}
    return {**base, "method": "l1_unstructured", "ratio": 0, "budget": "native", "prune": prune}


def _check_seeds(params: Params) -> None:
    used = sorted(set(params.seeds) & set(params.search.final_seeds))
    if used:
        raise InputError(
            f"search.final_seeds: {', '.join(map(str, used))} is in seeds too, which tries use. "
            "The network that is found must be trained again, with seeds that no try has used."
        )


def _check_layer_ratios(params: Params) -> None:
    if "sensitivity" in params.search.layers and params.prune.layer_ratios:
        raise InputError(
            "search.layers: sensitivity gives every layer a ratio, and prune.layer_ratios has some "
            "already. Empty it (layer_ratios: {}), or take sensitivity out of search.layers."
        )


def last_folder(root: Path) -> Path:
    """The folder of the search that was begun or resumed last.

    Raises:
        InputError: if there is none.
    """
    path = root / LAST
    if path.exists():
        folder = root / FOLDER / path.read_text(encoding="utf-8").strip()
        if folder.is_dir():
            return folder
    raise InputError("no search was begun here; begin one: prunelab search --max-drop 0.5")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the identities of two searches, in words."""
    changed = []
    if before["code"] != now["code"]:
        changed.append("the code of the last commit")
    if before["inputs"] != now["inputs"]:
        changed.append("the data or the weights")

    keys = sorted({*before["parameters"], *now["parameters"]})
    for key in keys:
        if before["parameters"].get(key) != now["parameters"].get(key):
            changed.append(key)
    return changed
