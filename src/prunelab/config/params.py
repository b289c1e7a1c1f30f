"""params.yaml as typed models: every key and every range.

There are no defaults: a value is written in params.yaml or nowhere. Only keys that are missing
in older files have one.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

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
from prunelab.core.files import PathLike, user_path
from prunelab.core.project_root import where_to_go
from prunelab.core.text import abbreviate, truncate

PARAMS_FILE = Path("params.yaml")
MAX_COUNT = 2**31 - 1  # larger counts overflow in one library or another
MAX_EPOCHS = 1_000_000
MAX_OPTION_LENGTH = 200  # characters of an option of a network
MIN_DEVIATION = 1e-6  # of a channel, pixels scaled to 0..1


def _distinct(values: list[Any]) -> list[Any]:
    counts = Counter(values)
    repeated = sorted(str(value) for value, count in counts.items() if count > 1)
    if repeated:
        raise ValueError(
            f"{truncate(', '.join(repeated))} appears more than once; every entry must be different"
        )
    return values


def _zero_or_several(count: int) -> int:
    if count == 1:
        raise ValueError("1 is too few; valid: 0 (not at all), or 2 and more")
    return count


Fraction = Annotated[float, Field(ge=0, lt=1)]
InnerFraction = Annotated[float, Field(gt=0, lt=1)]
# An integer 0 stays an integer: DVC names a cell after what is written, and so does `Grid.cells`.
Ratio = Annotated[int | float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Epochs = Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
ZeroOrSeveral = Annotated[int, Field(ge=0, le=MAX_COUNT), AfterValidator(_zero_or_several)]
Name = Annotated[str, Field(min_length=1)]
Choice = TypeVar("Choice")
Choices = Annotated[list[Choice], Field(min_length=1), AfterValidator(_distinct)]
Budget = Literal["native", "params", "macs"]
Interpolation = Literal["bilinear", "bicubic"]
Orientation = Literal["apply", "ignore"]  # of photographs, as their EXIF data has it
Conflicts = Literal["refuse", "keep", "drop"]
Backend = Literal["eager", "compiled", "cuda_graph", "onnxruntime", "semi_structured"]


class Section(BaseModel):
    """A part of params.yaml. Unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Prune(Section):
    """How to prune. A method uses the settings that concern it and ignores the others.

    `protect` and `layer_ratios` name layers, with the wildcards of a shell (`layer1.*`). A layer
    in `layer_ratios` loses exactly that share of itself, whatever the other layers lose.
    """

    # Channel widths that are left are multiples of this, or the full width.
    round_to: Count
    # The smallest share of its channels that a layer keeps when layers are ranked together.
    floor: Fraction
    protect: Annotated[list[str], AfterValidator(_distinct)]
    layer_ratios: dict[str, Ratio]
    # N:M sparsity: the M.
    group: Annotated[int, Field(ge=2, le=MAX_COUNT)]
    # Block sparsity: output channels by input weights.
    block_rows: Count
    block_columns: Count
    # Pattern sparsity: how many patterns the kernels choose from.
    patterns: Count
    # Training examples for criteria that look at data. Batch norm cannot use a batch of one.
    samples: Annotated[int, Field(ge=2, le=MAX_COUNT)]
    # Training examples on which batch norms measure their statistics again; 0: they do not.
    recalibrate: ZeroOrSeveral
    # Rounds of iterative methods.
    iterations: Count
    # Epochs of training within a method's schedule; for iterative methods, per round.
    epochs: Epochs
    # Strength of the regulariser of sparse training.
    penalty: Annotated[float, Field(ge=0)]


class PruneSpec(Prune):
    """What to prune, how much, and how the amount is counted.

    `ratio` is the fraction removed, from 0 (nothing) to below 1. `budget` says of what: `native`
    counts weights for mask methods and channels for channel methods. `params` and `macs` count
    those of the whole network; for mask methods, those that are not zero.
    """

    method: str
    ratio: Ratio
    budget: Budget


def _option_value(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{abbreviate(value)} is no number and no text")
    if isinstance(value, str) and not 0 < len(value) <= MAX_OPTION_LENGTH:
        raise ValueError(f"a text of 1 to {MAX_OPTION_LENGTH} characters is valid")
    if not isinstance(value, str) and not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{abbreviate(value)} is out of range; valid: 0 to {MAX_COUNT}")
    return value


# Which options there are, the network says that takes them.
ModelOption = Annotated[Any, AfterValidator(_option_value)]


class WeightsOptions(Section):
    """How a file of weights is read that names or holds its tensors in another way."""

    # Parts of names, between dots, and what they are called in the network.
    rename: dict[Name, str]
    # auto: the file's head, or a fresh one for another number of classes. fresh: always fresh.
    head: Literal["auto", "fresh"]
    # The average of the weights over training (EMA) rather than the weights at its end.
    ema: bool
    # Tensors in the same order and shapes as the network's are taken whatever their names are.
    order: bool


class Grid(Section):
    """The reference grid: every method at every ratio."""

    methods: Choices[str]
    ratios: Choices[Ratio]

    def cells(self) -> Iterator[tuple[str, float, str]]:
        """Every (method, ratio, key); stages and paths contain `key`, as DVC spells it."""
        for method in self.methods:
            for ratio in self.ratios:
                yield method, ratio, f"{method}-{ratio}"


class Normalise(Section):
    """Per-channel mean and standard deviation of pixels scaled to 0..1."""

    mean: Annotated[list[float], Field(min_length=1)]
    std: Annotated[list[Annotated[float, Field(ge=MIN_DEVIATION)]], Field(min_length=1)]


class Data(Section):
    """Where data lies, its splits, its normalisation and its augmentation."""

    # imagefolder: a folder of class folders; text_tsv: a table.
    source: Name | None
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    # Only for data sets without an official test split.
    test_fraction: InnerFraction
    # Of what is not in the test split.
    validation_fraction: InnerFraction
    # Images become squares of so many pixels a side; null: they keep their size.
    resize: Annotated[int, Field(ge=1, le=4096)] | None
    # null: measured on the training split.
    normalise: Normalise | None
    # Random crops after padding by so many pixels; 0: none.
    crop_padding: Annotated[int, Field(ge=0, le=256)]
    # Random resized crops of at least this share of the image; 1: none.
    crop_scale: Annotated[float, Field(gt=0, le=1)]
    # Random left-right flips.
    flip: bool
    # Further random changes to images, names in AUGMENTATIONS, in this order.
    augment: Annotated[list[Name], AfterValidator(_distinct)]
    # Splits larger than this stay on disk and are streamed.
    memory_mb: Count
    # Processes that read streamed splits; 0: the stage itself reads.
    workers: Annotated[int, Field(ge=0, le=256)]
    text_column: str
    label_column: str
    # Longer texts are truncated to so many tokens.
    tokens: Annotated[int, Field(ge=2, le=8192)]
    # imagefolder: a table of the images in `source` and their labels, in `label_column`. null: the
    # folders are the classes.
    table: Name | None = None
    file_column: str = "file"
    # A column of train, validation and test, if the table has it.
    split_column: str | None = "split"
    # Images are turned as their EXIF orientation says, or left as their pixels lie.
    exif: Orientation = "apply"
    # Equal images with different labels are refused if they are many, kept, or left out.
    conflicts: Conflicts = "refuse"
    # The share of images that are left out if they cannot be decoded.
    unreadable: Fraction = 0.0
    # How images are resized, always with antialiasing.
    interpolation: Interpolation = "bilinear"


class Recipe(Section):
    """How to train. The learning rate of a step is `learning_rate` times the schedule's factor.

    `milestones` and `gamma` belong to the schedule `step`: at each milestone, a fraction of the
    steps after the warm-up, the rate is multiplied by `gamma`. `freeze_epochs`, `backbone_rate` and
    `norm` are for networks with pretrained weights, whose last layer, the head, is fresh.
    """

    epochs: Epochs
    # With 3 or more, no process and no last batch gets a single example, which norms cannot use.
    batch_size: Annotated[int, Field(ge=3, le=MAX_COUNT)]
    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: Annotated[float, Field(gt=0)]
    # SGD's momentum, Adam's beta1.
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    # A name in LR_SCHEDULES.
    schedule: Name
    # The fraction of the steps during which the rate rises linearly from 0.
    warmup: Fraction
    milestones: Annotated[list[InnerFraction], AfterValidator(_distinct)]
    gamma: Annotated[float, Field(gt=0, le=1)]
    label_smoothing: Fraction
    # During the first so many epochs only the head is trained.
    freeze_epochs: Epochs = 0
    # The learning rate of all layers but the head is multiplied by this.
    backbone_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Batch norms normalise by the batch and measure their statistics (train), or keep them (eval).
    norm: Literal["train", "eval"] = "train"

    @model_validator(mode="after")
    def _check_milestones(self) -> "Recipe":
        if self.schedule == "step" and not self.milestones:
            raise ValueError(
                "schedule step needs milestones, fractions of the training such as 0.5 and 0.75"
            )
        return self


class Train(Recipe):
    """Base training. The weights at the end of `rewind_epoch` are kept as well.

    `rewind_epoch` 0 keeps the initial weights. With 0 epochs these are the only ones to keep,
    whatever `rewind_epoch` says.
    """

    rewind_epoch: Epochs
    # Layers, with wildcards, that keep their weights.
    freeze: Annotated[list[str], AfterValidator(_distinct)]

    @model_validator(mode="after")
    def _check_rewind_epoch(self) -> "Train":
        if self.rewind_epoch > self.epochs > 0:
            raise ValueError(
                f"rewind_epoch is {self.rewind_epoch}, but there are only {self.epochs} epochs"
            )
        return self


class Finetune(Recipe):
    """Training after pruning, with distillation from the dense network (Hinton et al. 2015).

    `distill` is the weight in the loss of the dense network's softened outputs, from 0 (labels
    only) to 1 (outputs only). Logits are divided by `temperature` before they are compared.
    """

    distill: Share
    temperature: Annotated[float, Field(ge=0.01)]


class Sensitivity(Section):
    """Accuracy as single layers of the dense network are pruned at each of `ratios`.

    It is measured on at most `samples` examples of the validation split.
    """

    ratios: Choices[InnerFraction]
    samples: Count


class Evaluate(Section):
    """How to evaluate. With a single seed, `bootstrap_samples` resamples give the interval.

    `metrics` are names in METRICS, measured beside what every study has.

    `split` is what networks are measured on. A search measures its tries on `validation`, so that
    the test split stays unseen. All pictures and tables are of `test`.
    """

    split: Literal["test", "validation"]
    batch_size: Count
    bootstrap_samples: Annotated[int, Field(ge=100, le=1_000_000)]
    metrics: Annotated[list[Name], AfterValidator(_distinct)]


class Benchmark(Section):
    """How to measure speed: all networks take turns, `rounds` times.

    A batch size on a backend takes `seconds` in all. A round gives one ratio, and an interval
    needs at least two.
    """

    batch_sizes: Choices[Count]
    backends: Choices[Backend]
    rounds: Annotated[int, Field(ge=2, le=10_000)]
    seconds: Annotated[float, Field(gt=0)]


class Range(Section):
    """All numbers from `low` to `high`."""

    low: float
    high: float

    @model_validator(mode="after")
    def _check_order(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high, which is {self.high}")
        return self


class PositiveRange(Range):
    """All numbers from `low` to `high`, both above 0."""

    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]


class RatioRange(Range):
    """All ratios from `low` to `high`, both above 0 and below 1."""

    low: InnerFraction
    high: InnerFraction


class Search(Section):
    """What `prunelab search` tries, and how much it tries.

    `methods` are names of methods, or granularities such as `channel`, which stand for all methods
    of that granularity that neither train while they prune nor are controls. `ratio` is of the
    budget that fits what is minimised. `layers` says how a ratio is spread over the layers:
    `method` leaves that to the method, `sensitivity` makes ratios of the curves of the layers.
    """

    methods: Choices[Name]
    ratio: RatioRange
    layers: Choices[Literal["method", "sensitivity"]]
    round_to: Choices[Count]
    learning_rate: PositiveRange
    distill: Choices[Share]
    recalibrate: Choices[ZeroOrSeveral]
    tries: Annotated[int, Field(ge=1, le=10_000)]
    # The longest fine-tuning, and the shortest, with which a try begins.
    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
    first_epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
    # Of so many tries one goes on, with so many times as many epochs.
    reduction: Annotated[int, Field(ge=2, le=100)]
    sampler_seed: Seed
    # Seeds of which no try has seen a result.
    final_seeds: Choices[Seed]
    # Larger networks that are trained again and tested beside the smallest.
    runners_up: Annotated[int, Field(ge=0, le=20)]

    @model_validator(mode="after")
    def _check_epochs(self) -> "Search":
        if self.first_epochs > self.epochs:
            raise ValueError(
                f"first_epochs is {self.first_epochs}, more than epochs, which is {self.epochs}"
            )
        return self


class Runtime(Section):
    """Where and how to compute. `auto` takes a GPU, and bf16, if the hardware has them.

    With several `processes`, base training and fine-tuning split every batch among them, on one
    GPU each if there are GPUs. Batch norm then sees one process's share. If torchrun starts the
    stage, torchrun's number of processes counts instead.
    """

    # portable: results on a CPU have the same bits on every x86-64 processor with AVX2. native: the
    # processor's fastest code, and bits of its own.
    bits: Literal["portable", "native"]

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16"]
    processes: Annotated[int, Field(ge=1, le=1024)]
    # Of each process.
    threads: Annotated[int, Field(ge=1, le=1024)]
    deterministic: bool
    channels_last: bool
    # On a GPU, auto records training steps once and replays them as graphs, to the same bits.
    cuda_graphs: Literal["auto", "off"]


class Params(Section):
    """The whole of params.yaml. `method`, `ratio` and `budget` are the focus of a study."""

    dataset: str
    model: str
    # What the network takes besides, such as the side of its patches.
    model_options: dict[Name, ModelOption]
    # none, imagenet, package:NAME, or a file; for bert also a folder or a name on the hub.
    weights: Name
    weights_options: WeightsOptions
    seeds: Choices[Seed]
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
    search: Search
    runtime: Runtime

    def spec(self, method: str, ratio: float) -> PruneSpec:
        """The full specification of one cell of the grid.

        Raises:
            InputError: if the ratio is out of range.
        """
        cell = {"method": method, "ratio": ratio, "budget": self.budget}
        return validate(PruneSpec, cell | self.prune.model_dump())


def load_params(path: PathLike = PARAMS_FILE) -> Params:
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
    """Check the content of a parameter file.

    `option` is the command-line option that sets a value; advice in messages mentions it.

    Raises:
        InputError: with one line per problem, all of them at once.
    """
    return validate(Params, content, option=option)


def read_params(path: PathLike = PARAMS_FILE) -> Any:
    """Read a parameter file without checking its keys; an empty file is an empty mapping.

    Raises:
        InputError: if it is missing or is not YAML.
    """
    try:
        content = parse_yaml(user_path(path))
    except FileNotFoundError:
        raise InputError(f"{path} is missing. {where_to_go()}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{path} {error}") from None

    if content is None:
        return {}
    return content


def with_defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a parameter file; keys that are missing in older files have their defaults."""
    filled = dict(content)
    for key, field in Params.model_fields.items():
        section = field.annotation
        if not isinstance(section, type) or not issubclass(section, Section) or key not in filled:
            continue

        defaults = {
            name: option.get_default()
            for name, option in section.model_fields.items()
            if not option.is_required()
        }
        filled[key] = defaults | dict(filled[key])

    return filled


def valid_parts(content: Any) -> dict[str, Any]:
    """The top-level entries of a parameter file that are valid by themselves, validated."""
    parts = {}
    for key, field in Params.model_fields.items():
        adapter: TypeAdapter[Any] = TypeAdapter(
            field.rebuild_annotation(), config=_config_for(field.annotation)
        )
        try:
            parts[key] = adapter.validate_python(content[key], strict=True)
        except (ValidationError, KeyError, TypeError):
            continue
    return parts


def _config_for(annotation: Any) -> ConfigDict | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None  # a model has its own
    return ConfigDict(strict=True, allow_inf_nan=False)
