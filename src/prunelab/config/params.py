"""params.yaml as typed models: every key, every range. No defaults: a value is written in params.yaml or nowhere."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from prunelab.config.problems import validate
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.text import truncate

PARAMS_FILE = Path("params.yaml")


def _distinct(values: list[Any]) -> list[Any]:
    twice = sorted(str(value) for value, count in Counter(values).items() if count > 1)
    if twice:
        raise ValueError(
            f"{truncate(', '.join(twice))} stands there more than once; every entry must be different"
        )
    return values


def _none_or_several(count: int) -> int:
    if count == 1:
        raise ValueError("1 is too few; valid: 0 (not at all), or 2 and more")
    return count


Fraction = Annotated[float, Field(ge=0, lt=1)]
# An integer 0 stays an integer: DVC names the cell after what is written, and so must `Grid.cells`.
Ratio = Annotated[int | float, Field(ge=0, lt=1)]
MOST = 2**31 - 1  # no count of anything here is larger, and larger ones overflow somewhere
Count = Annotated[int, Field(ge=1, le=MOST)]
Budget = Literal["native", "params", "macs"]
Backend = Literal["eager", "compiled", "cuda_graph", "onnxruntime"]


class Section(BaseModel):
    """A part of params.yaml: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Prune(Section):
    """How to prune, whatever the method; each method uses what concerns it.

    `protect` and `layer_ratios` take names of layers with the wildcards of a shell (`layer1.*`); a layer named in
    `layer_ratios` loses that share of what it has, whatever the others do.
    """

    round_to: Count  # channel widths left are multiples of this, or the full width
    floor: Fraction  # the least share of its channels that a layer keeps where layers are ranked together
    protect: Annotated[list[str], AfterValidator(_distinct)]
    layer_ratios: dict[str, Ratio]
    group: Annotated[int, Field(ge=2, le=MOST)]  # N:M sparsity: the M
    block_rows: Count  # block sparsity: output channels ...
    block_columns: Count  # ... by input weights
    patterns: Count  # pattern sparsity: so many patterns in the set that kernels choose from
    # A norm has nothing to measure in a batch of one example.
    samples: Annotated[
        int, Field(ge=2, le=MOST)
    ]  # training examples shown to the criteria that look at data
    # Training examples by which norms are measured anew; 0: not at all.
    recalibrate: Annotated[int, Field(ge=0, le=MOST), AfterValidator(_none_or_several)]
    iterations: Count  # rounds of iterative methods
    epochs: Annotated[
        int, Field(ge=0, le=1_000_000)
    ]  # of training within a method's schedule; iterative: per round
    penalty: Annotated[float, Field(ge=0)]  # strength of the regulariser of sparse training


class PruneSpec(Prune):
    """What to prune, how much and of what.

    `ratio` is the fraction removed, 0 (nothing) to below 1, of what `budget` names: `native` means weights for mask
    methods and channels for channel methods; `params` and `macs` are those of the whole network, where mask methods
    count what is not zero.
    """

    method: str
    ratio: Ratio
    budget: Budget


class Grid(Section):
    """The reference grid: every method at every ratio."""

    methods: Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]
    ratios: Annotated[list[Ratio], Field(min_length=1), AfterValidator(_distinct)]

    def cells(self) -> Iterator[tuple[str, float, str]]:
        """Every (method, ratio, key); `key` is the cell's name in stages and paths, as DVC spells it."""
        for method in self.methods:
            for ratio in self.ratios:
                yield method, ratio, f"{method}-{ratio}"


class Normalise(Section):
    """Per-channel mean and standard deviation of pixels scaled to 0..1."""

    mean: Annotated[list[float], Field(min_length=1)]
    std: Annotated[list[Annotated[float, Field(ge=1e-6)]], Field(min_length=1)]


class Data(Section):
    """Where data lies, its splits, normalisation (null: measured on the training split) and augmentation."""

    source: (
        Annotated[str, Field(min_length=1)] | None
    )  # imagefolder: a folder of class folders; text_tsv: a table
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    test_fraction: Annotated[
        float, Field(gt=0, lt=1)
    ]  # only for sets without an official test split
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]  # of what is not test
    resize: Annotated[int, Field(ge=1, le=4096)] | None  # images become squares of so many pixels
    normalise: Normalise | None
    crop_padding: Annotated[
        int, Field(ge=0, le=256)
    ]  # random crops after padding by so many pixels; 0: none
    crop_scale: Annotated[
        float, Field(gt=0, le=1)
    ]  # random resized crops of at least this share; 1: none
    flip: bool  # random left-right flips
    memory_mb: Count  # splits larger than this stay on disk and are streamed
    workers: Annotated[int, Field(ge=0, le=256)]  # processes that stream; 0: the stage itself
    text_column: str
    label_column: str
    tokens: Annotated[int, Field(ge=2, le=8192)]  # longer texts are cut


class Recipe(Section):
    """How to train. The learning rate is `learning_rate` times the schedule's factor, set at every step."""

    epochs: Annotated[int, Field(ge=0, le=1_000_000)]
    batch_size: Annotated[
        int, Field(ge=3, le=MOST)
    ]  # of 3 or more, no batch has one example, which norms cannot bear
    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: Fraction  # SGD's momentum, Adam's beta1
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["constant", "step", "cosine", "one_cycle"]
    warmup: Fraction  # fraction of the steps during which the rate rises linearly from 0
    milestones: Annotated[
        list[Annotated[float, Field(gt=0, lt=1)]], AfterValidator(_distinct)
    ]  # step only
    gamma: Annotated[float, Field(gt=0, le=1)]  # step only: the factor at every milestone
    label_smoothing: Fraction

    @model_validator(mode="after")
    def _steps_somewhere(self) -> "Recipe":
        if self.schedule == "step" and not self.milestones:
            raise ValueError(
                "schedule step needs milestones, shares of the training such as 0.5 and 0.75"
            )
        return self


class Train(Recipe):
    """Base training; the weights at the end of `rewind_epoch` (0: the initial ones) are kept as well.

    Without epochs there is nothing to rewind to but the initial weights, whatever `rewind_epoch` says.
    """

    rewind_epoch: Annotated[int, Field(ge=0, le=1_000_000)]
    freeze: Annotated[
        list[str], AfterValidator(_distinct)
    ]  # layers, with wildcards, that keep their weights

    @model_validator(mode="after")
    def _rewind_within(self) -> "Train":
        if self.rewind_epoch > self.epochs > 0:
            raise ValueError(
                f"rewind_epoch is {self.rewind_epoch}, but there are only {self.epochs} epochs"
            )
        return self


class Finetune(Recipe):
    """`distill` is the weight, 0 to 1, of the dense network's softened outputs in the loss (Hinton et al. 2015)."""

    distill: Annotated[float, Field(ge=0, le=1)]
    temperature: Annotated[
        float, Field(ge=0.01)
    ]  # by which logits are divided before they are compared


class Sensitivity(Section):
    """Curves of the dense network's layers: at these ratios, on at most so many `samples` of the validation split."""

    ratios: Annotated[
        list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1), AfterValidator(_distinct)
    ]
    samples: Count


class Evaluate(Section):
    """`bootstrap_samples` resamples of the test images give the interval where there is only one seed."""

    batch_size: Count
    bootstrap_samples: Annotated[int, Field(ge=100, le=1_000_000)]


class Benchmark(Section):
    """How to measure speed: every network in turn, `rounds` times, for `seconds` in all per batch size and backend."""

    batch_sizes: Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
    backends: Annotated[list[Backend], Field(min_length=1), AfterValidator(_distinct)]
    rounds: Annotated[
        int, Field(ge=2, le=10_000)
    ]  # each gives one ratio; an interval takes two at least
    seconds: Annotated[float, Field(gt=0)]


class Runtime(Section):
    """Where and how to compute. `auto` takes a GPU where there is one, and bf16 where the hardware has it.

    With several `processes`, base training and fine-tuning share every batch among them, a GPU each where there are
    any; batch norms then see a share alone. Inside torchrun its own number counts.
    """

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    processes: Annotated[int, Field(ge=1, le=1024)]
    threads: Annotated[int, Field(ge=1, le=1024)]  # of each process
    deterministic: bool
    channels_last: bool


class Params(Section):
    dataset: str
    model: str
    weights: Annotated[
        str, Field(min_length=1)
    ]  # none, imagenet, or a file (bert: a folder, a hub name)
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1), AfterValidator(_distinct)
    ]
    method: str
    ratio: Ratio
    budget: Budget
    grid: Grid
    data: Data
    train: Train
    prune: Prune
    finetune: Finetune
    sensitivity: Sensitivity
    evaluate: Evaluate
    benchmark: Benchmark
    runtime: Runtime

    def spec(self, method: str, ratio: float) -> PruneSpec:
        """The whole specification of one cell; raises InputError for a ratio out of range."""
        cell = {"method": method, "ratio": ratio, "budget": self.budget}
        return validate(PruneSpec, cell | self.prune.model_dump())


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check a parameter file.

    Raises:
        InputError: with one line per problem, all of them at once.
    """
    content = read_params(path)
    try:
        return parse_params(content)
    except InputError as error:
        raise InputError(f"{path}: {line}" for line in error.problems) from None


def parse_params(content: Any, *, option: str = "-S") -> Params:
    """The parameters that the content of a file means.

    `option` is the command-line option of the caller that sets a value; advice mentions it.

    Raises:
        InputError: with one line per problem, all of them at once.
    """
    return validate(Params, content, option=option)


def read_params(path: Path = PARAMS_FILE) -> Any:
    """Read a parameter file as it stands; an empty one is a mapping without keys, so that all of them are missed.

    Raises:
        InputError: if it is not there or not YAML.
    """
    try:
        content = parse_yaml(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run this in the top folder of the project") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except InputError as refused:
        raise InputError(f"{path} {refused}") from None
    return {} if content is None else content


def valid_parts(content: Any) -> dict[str, Any]:
    """The top-level entries of a parameter file that are in order by themselves."""
    parts = {}
    for key, field in Params.model_fields.items():
        try:
            adapter: TypeAdapter = TypeAdapter(
                field.rebuild_annotation(), config=_config_of(field.annotation)
            )
            parts[key] = adapter.validate_python(content[key], strict=True)
        except (ValidationError, KeyError, TypeError):
            continue
    return parts


def _config_of(annotation: Any) -> ConfigDict | None:
    # A model brings its own; what is no model is held to the same strictness as within one.
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return None if is_model else ConfigDict(strict=True, allow_inf_nan=False)
