"""A published result of pruning, repeated in the minutes given, as a study in this process.

    python benchmarks/anchor.py --network resnet56_b --minutes 9 --data FOLDER [--out WORK]
    python benchmarks/anchor.py --smoke

FOLDER holds cifar-10-batches-py/ as published; of its training files those that are there are used,
and the result says how many images that were. Neither DVC nor a network connection is needed.

Three seeds at once: base training from scratch; pruning to 2.13 and 2.57 times fewer MACs, by
`group_lasso_channel_sparse` after its sparse training, and without any by three other methods; then
fine-tuning, with and without the dense network as a teacher. The last epoch counts. Validation
images are kept apart from the start, and test images are read when a network is finished.

All epochs follow from the minutes: a few epochs of a dense and of a pruned network are timed first,
then base training gets three times as many epochs as sparse training and fine-tuning get each. Few
minutes are planned for 2.13 times alone. What was planned is in WORK/plan.json. Once the minutes
are over, the program ends, and the same command goes on with the other networks; it also goes on
after it was killed.

The result is a study: WORK/studies/anchor_NETWORK.yaml and WORK/studies/results/, to be copied to
studies/, where `prunelab study show` displays them. They grow with every network that is finished.

`--smoke` takes small digits, a small network and an epoch of everything: a minute on a CPU.
"""

import json
import os
import pickle
import time
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from prunelab.core.lifecycle import set_load_time_variables

set_load_time_variables()  # portable bits need it before NumPy is loaded

import numpy as np
import torch
import typer
from ruamel.yaml import YAML
from torch import nn

from prunelab.artifacts.prepared import read_data_info, save_prepared
from prunelab.commands.common import interruptible, print_line, report_failures, reporting_errors
from prunelab.commands.studies.here import HereRun, run_here
from prunelab.commands.studies.origin import Origin, origin_of
from prunelab.commands.studies.study_file import Study, parse_study, resolve
from prunelab.commands.studies.study_tables import Shown, study_document
from prunelab.config.params import Normalise, Params, parse_params, read_params
from prunelab.core.errors import InputError
from prunelab.core.files import read_json, write_json
from prunelab.data.dataset import DataConfig, SplitData
from prunelab.data.splits import Split, three_way_split
from prunelab.datasets.manifest import describe, find_duplicates, prepare_params
from prunelab.models.networks import build
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import prune
from prunelab.runtime.device import Execution, configure
from prunelab.runtime.seeds import for_each_seed
from prunelab.stages import prepare
from prunelab.stages.task import load_trainer
from prunelab.training.callbacks import Callback

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / "params.yaml"
TIMES_FEWER = (2.13, 2.57)
METHOD_NAMES = (
    "group_lasso_channel_sparse",
    "l2_channel_global",
    "l1_channel",
    "random_channel_global",
)
DISTILL = 0.5  # weight of the teacher
# Base training to sparse training and to fine-tuning, in epochs. Published: 200 to 100.
BASE_SHARE = 3
ENOUGH_EPOCHS = 6  # of fine-tuning; fewer are planned only if nothing else can be left out
STAGE_S = 1.5  # reading, recording and writing of a stage; a guess
PENALTY_COST, TEACHER_COST = 1.2, 1.3  # of a step with them, to one without; guesses
RESERVE = 0.95  # share of the time that is planned


@dataclass(frozen=True)
class Arm:
    """One row of the result: a method, how many times fewer MACs, and whether a teacher helps."""

    method: str
    times_fewer: float
    teacher: bool

    @property
    def label(self) -> str:
        label = f"{self.method}-{self.times_fewer:g}x"
        if self.teacher:
            return f"{label}-teacher"
        return label

    @property
    def trains_before(self) -> bool:
        return METHODS[self.method].schedule.startswith("sparse")


def _arms() -> tuple[tuple[Arm, ...], tuple[int, ...]]:
    """All rows, the most important ones first, and how many of them make a whole."""
    arms: list[Arm] = []
    wholes = []
    for times in TIMES_FEWER:
        arms += [Arm(method, times, False) for method in METHOD_NAMES]
        arms += [Arm(method, times, True) for method in METHOD_NAMES[:2]]
        wholes.append(len(arms))
    for times in TIMES_FEWER:
        arms += [Arm(method, times, True) for method in METHOD_NAMES[2:]]
    return tuple(arms), (len(arms), *reversed(wholes))


ARMS, WHOLES = _arms()


@dataclass(frozen=True)
class Plan:
    """What a run does, decided once; `epoch_s` are the measured seconds of an epoch."""

    minutes: float
    images: int
    base_epochs: int
    epochs: int  # of sparse training, and of fine-tuning
    arms: tuple[Arm, ...]
    epoch_s: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> "Plan":
        content = read_json(path)
        arms = tuple(Arm(**arm) for arm in content["arms"])
        return cls(**content | {"arms": arms})


def settings_of(network: str, *, smoke: bool) -> dict[str, Any]:
    """The parameters that differ from the shipped ones, without epochs."""
    if smoke:
        return {
            "dataset": "digits",
            "model": network,
            "weights": "none",
            "seeds": [0, 1],
            "budget": "macs",
            "runtime": {"device": "cpu", "precision": "fp32"},
        }

    recipe = {
        "batch_size": 128,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "schedule": "one_cycle",
        "warmup": 0.2,
    }
    return {
        "dataset": "cifar10",
        "model": network,
        "weights": "none",
        "seeds": [0, 1, 2],
        "budget": "macs",
        "data": {"crop_padding": 4, "flip": True},
        "train": recipe | {"learning_rate": 0.1},
        "finetune": recipe | {"learning_rate": 0.02},
        "runtime": {"precision": "auto", "cuda_graphs": "auto"},
    }


def study_of(network: str, plan: Plan, hardware: str, *, smoke: bool) -> dict[str, Any]:
    """The content of the study file. It names every parameter that a result depends on."""
    changes = settings_of(network, smoke=smoke)
    params: dict[str, Any] = {}
    for key, value in read_params(PARAMS).items():
        if key in ("data", "train", "prune", "finetune", "evaluate", "runtime"):
            params[key] = dict(value) | changes.get(key, {})
        elif key in changes:
            params[key] = changes[key]
    params["train"] |= {"epochs": plan.base_epochs}
    params["train"]["rewind_epoch"] = min(params["train"]["rewind_epoch"], plan.base_epochs)
    params["prune"] |= {"epochs": plan.epochs}
    params["finetune"] |= {"epochs": plan.epochs}

    settings = []
    for arm in plan.arms:
        setting: dict[str, Any] = {"method": arm.method, "times_fewer": arm.times_fewer}
        if arm.teacher:
            setting |= {"name": arm.label, "params": {"finetune": {"distill": DISTILL}}}
        settings.append(setting)

    source, published = _published(network, [arm.label for arm in plan.arms])
    seeds = len(params["seeds"])
    data = "CIFAR-10"
    honest = [
        f"Of {plan.minutes:.3g} minutes on one {hardware}, with {seeds} seeds at once: "
        f"{plan.base_epochs} epochs of base training, {plan.epochs} of sparse training and "
        f"{plan.epochs} of fine-tuning. Published are 200, 100 and 100.",
        f"{plan.images:,} training images, the validation images not among them, of 50,000.",
        "The last epoch counts, never the best one; test images play no part in training.",
        "One cycle of the learning rate, Nesterov's momentum, and no weight decay of norms and "
        "biases; the source has steps, plain momentum, and decays all.",
    ]
    if smoke:
        data = "digits"
        honest = ["One epoch of everything: this shows that the program runs, and nothing else."]
    return {
        "title": f"{network} on {data} in {plan.minutes:.3g} minutes on one {hardware}",
        "source": source,
        "network": network,
        "data": f"{data}, {plan.images:,} training images",
        "honest": honest,
        "params": params,
        "quick": {
            "note": "One epoch of each training and one seed, on the same data.",
            "params": {
                "seeds": [0],
                "train": {"epochs": 1},
                "prune": {"epochs": 1},
                "finetune": {"epochs": 1},
            },
        },
        "settings": settings,
        "published": published,
    }


def _published(network: str, labels: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The source and the numbers to compare with, where a study of the project has them."""
    file = ROOT / "studies" / "resnet56_cifar10.yaml"
    if network != "resnet56_b" or not file.exists():
        own = {"what": "a measurement of our own", "by": "this project", "link": None}
        return own, {"dense": {}, "rows": []}

    study = YAML(typ="safe").load(file)
    rows = [row for row in study["published"]["rows"] if row["setting"] in labels]
    return study["source"], {"dense": study["published"]["dense"], "rows": rows}


# --- Data.


def prepare_data(data: Path | None, params: Params) -> None:
    """Write the folder `prepared` here, which the stages read."""
    if Path("prepared/dataset.json").exists():
        return
    if params.dataset == "digits":
        write_json(Path("params.yaml"), params.model_dump())  # JSON is YAML
        prepare.main(Path("raw"), Path("prepared"))
        return

    assert data is not None
    published = read_cifar(data / "cifar-10-batches-py")
    fractions = (params.data.test_fraction, params.data.validation_fraction, params.data.split_seed)
    splits = three_way_split(published, *fractions)
    config = DataConfig(data)

    def describe_written(written: dict[str, Split]) -> dict[str, Any]:
        duplicates = find_duplicates(written)
        content = describe(published.class_names, (3, 32, 32), written, duplicates)
        return prepare_params("cifar10", config, *fractions) | {"digest": None} | content

    save_prepared(Path("prepared"), splits, describe_written)


def read_cifar(folder: Path) -> SplitData:
    """The training images of all files data_batch_* in a folder, and the official test images."""
    files = sorted(folder.glob("data_batch_*"))
    if not files or not (folder / "test_batch").exists():
        raise InputError(f"{folder} has no data_batch_* or no test_batch. Unpack CIFAR-10 there.")

    names = ["airplane", "automobile", "bird", "cat", "deer"]
    names += ["dog", "frog", "horse", "ship", "truck"]
    return SplitData(_read(files), _read([folder / "test_batch"]), names)


def _read(files: list[Path]) -> Split:
    images, labels = [], []
    for file in files:
        content = pickle.loads(file.read_bytes(), encoding="latin1")
        images.append(np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32))
        labels.append(np.asarray(content["labels"], np.int64))
    return Split(np.concatenate(images), np.concatenate(labels))


# --- The plan.


class Clock(Callback):
    """Notes when the second of three epochs begins: the first one warms up."""

    def __init__(self, execution: Execution) -> None:
        self.start = 0.0
        self._execution = execution

    def before_epoch(self, epoch: int) -> None:
        if epoch == 1:
            self.start = now(self._execution)


def now(execution: Execution) -> float:
    if execution.device.type == "cuda":
        torch.cuda.current_stream().synchronize()
    return time.perf_counter()


def epoch_seconds(model: nn.Module, params: Params, execution: Execution) -> float:
    """Seconds of an epoch, validation included, of copies of a network, one for each seed."""
    info = read_data_info(Path("prepared"))
    normalise = Normalise(mean=info["mean"], std=info["std"])
    trainer = load_trainer(Path("prepared"), params.data, normalise, execution)
    recipe = params.train.model_copy(update={"epochs": 3, "rewind_epoch": 0})
    weights = pickle.dumps(model)

    def train(seed: int) -> float:
        clock = Clock(execution)
        copy = pickle.loads(weights)
        replace(trainer, seed=seed, label="timing").fit(copy, recipe, callback=clock)
        return (now(execution) - clock.start) / 2

    return max(for_each_seed(params.seeds, train, execution))


def make_plan(params: Params, minutes: float, start: float) -> Plan:
    """Time epochs, and choose how many of them fit into what is left of the minutes."""
    execution = configure(params.runtime)
    info = read_data_info(Path("prepared"))
    shape = tuple(info["shape"])
    model = build(params.model, len(info["classes"]), shape, 0)
    dense_s = epoch_seconds(model, params, execution)

    begin = time.perf_counter()
    spec = params.spec("l2_channel_global", 1 - 1 / TIMES_FEWER[0])
    prune(model.cpu(), params.model, spec, shape=shape, seed=0)
    prune_s = time.perf_counter() - begin
    pruned_s = epoch_seconds(model.cpu(), params, execution)

    budget = RESERVE * 60 * minutes - (time.perf_counter() - start)
    for count in WHOLES:
        fixed_s, epoch_s = STAGE_S, BASE_SHARE * dense_s
        for arm in ARMS[:count]:
            fixed_s += 2 * STAGE_S
            cost = TEACHER_COST if arm.teacher else 1.0
            epoch_s += cost * pruned_s
            if arm.trains_before:
                epoch_s += cost * PENALTY_COST * dense_s
            if arm.trains_before or not arm.teacher:
                fixed_s += STAGE_S + len(params.seeds) * prune_s
        epochs = int((budget - fixed_s) / epoch_s)
        if epochs >= ENOUGH_EPOCHS:
            break

    epochs = max(1, epochs)
    return Plan(
        minutes=minutes,
        images=info["counts"]["train"],
        base_epochs=BASE_SHARE * epochs,
        epochs=epochs,
        arms=ARMS,
        epoch_s={"dense": dense_s, "pruned": pruned_s, "one pruning": prune_s},
    )


def smallest_plan(params: Params, minutes: float, start: float) -> Plan:
    """An epoch of everything, for a few networks; it takes the arguments of `make_plan`."""
    images = read_data_info(Path("prepared"))["counts"]["train"]
    arms = (ARMS[0], ARMS[1], replace(ARMS[1], teacher=True))
    return Plan(minutes, images, base_epochs=1, epochs=1, arms=arms, epoch_s={})


# --- The run.


def write_study(name: str, content: Mapping[str, Any]) -> Study:
    """Write the study file, and return what it says."""
    study = parse_study(json.loads(json.dumps(content)))
    path = Path("studies") / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        YAML().dump(json.loads(json.dumps(content)), file)
    return study


def run(
    network: str, data: Path | None, minutes: float, origin: Origin, *, smoke: bool, start: float
) -> None:
    """Plan, and run the study in the current folder."""
    changes = settings_of(network, smoke=smoke)
    shipped = read_params(PARAMS)
    for key, value in changes.items():
        if isinstance(value, dict):
            value = shipped[key] | value
        shipped[key] = value
    params = parse_params(shipped)
    configure(params.runtime)  # bits are chosen before anything is computed
    prepare_data(data, params)

    plan_file = Path("plan.json")
    if not plan_file.exists():
        choose = smallest_plan if smoke else make_plan
        write_json(plan_file, asdict(choose(params, minutes, start)))
    plan = Plan.read(plan_file)
    print(
        f"{plan.base_epochs} epochs of base training, {plan.epochs} of sparse training and of "
        f"fine-tuning, {len(plan.arms)} rows; seconds of an epoch: {plan.epoch_s}",
        flush=True,
    )

    hardware = "CPU"
    if configure(params.runtime).device.type == "cuda":
        hardware = torch.cuda.get_device_name()
    name = f"anchor_{network}"
    study = write_study(name, study_of(network, plan, hardware, smoke=smoke))
    settings = resolve(study, PARAMS, quick=False, overrides={})

    work = Path.cwd()
    here = HereRun(
        root=ROOT,
        name=name,
        study=study,
        settings=settings,
        only=list(settings),
        work=work / "stages",
        origin=origin,
        results_in=work,
        prepared=work / "prepared",
        minutes=max(minutes - (time.perf_counter() - start) / 60, 0.01),
    )
    outcome = run_here(here, print_line)

    records = {label: outcome.records.get(label) for label in settings}
    table = study_document(study, records, Shown(), markdown=True)
    Path("table.md").write_text(f"{table}\n")
    print(table)
    if outcome.left:
        print("the minutes are over; the same command goes on with the other networks")
    report_failures(outcome.failures, len(settings))


def main(
    network: str = "resnet56_b",
    minutes: Annotated[float, typer.Option(min=1)] = 9.0,
    data: Annotated[Path | None, typer.Option(help="a folder with cifar-10-batches-py")] = None,
    out: Annotated[Path | None, typer.Option(help="the folder WORK")] = None,
    commit: Annotated[str, typer.Option(help="of code that is no Git checkout")] = "",
    code: Annotated[str, typer.Option(help="its hash, as studies compare it")] = "",
    smoke: Annotated[bool, typer.Option("--smoke")] = False,
) -> None:
    """Repeat a published result in so many minutes; see the top of this file."""
    start = time.perf_counter()
    if smoke:
        network = "resnet8"
    elif data is None:
        raise typer.BadParameter("--data FOLDER is needed")

    with reporting_errors(), interruptible():
        origin = Origin(commit, code) if commit else origin_of(ROOT)
        work = out or Path(f".prunelab/anchor_{network}")
        work.mkdir(parents=True, exist_ok=True)
        place = data and data.resolve()
        os.environ.pop("DVC_STAGE", None)
        with chdir(work):
            run(network, place, minutes, origin, smoke=smoke, start=start)


if __name__ == "__main__":
    typer.run(main)
