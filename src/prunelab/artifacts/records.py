"""What stages found, as JSON that other stages read: what must be in it, or the file is refused by the place."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from prunelab.config.problems import validate
from prunelab.core.errors import InputError
from prunelab.core.files import read_json

QUANTILES = 21  # of a latency: 0, 5, 10 ... 100 %
Several = Field(min_length=1)
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

ALL = "all"  # the curve of all layers together, among those of single ones


class Strict(BaseModel):
    """A mapping with at least these keys, of these types; numbers are finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class SensitivityPoint(Strict):
    """One point of what a part of the network bears."""

    granularity: str
    layer: str
    layers: str
    ratio: Share
    removed: Share
    accuracy: Share
    units: PositiveInt


class Sensitivity(Strict):
    """metrics/sensitivity.json"""

    model: str
    dataset: str
    seeds: Annotated[list[int], Several]
    networks: list[str]
    accuracy: Share
    rows: Annotated[list[SensitivityPoint], Several]
    skipped: dict[str, str]


class Seed(Strict):
    """Which network a seed has."""

    seed: int
    sha256: str


class Measured(Strict):
    """A measure of one seed."""

    measure: str
    n: Literal[1]
    mean: float


class Repeated(Strict):
    """A measure over several seeds."""

    measure: str
    n: Annotated[int, Field(ge=2)]
    mean: float
    sd: float
    ci95: float


class Layer(Strict):
    """What is left of a layer, a mean over the seeds."""

    layer: str
    sparsity: Share
    width: float
    width_dense: Positive
    weights_nonzero: float
    weights_dense: float


class Spread(Strict):
    """A histogram of weights from -limit to limit."""

    limit: Positive
    counts: Annotated[list[NonNegativeInt], Several]


class Details(Strict):
    """metrics/details/base.json and those of the grid"""

    seeds: Annotated[list[Seed], Several]
    measures: Annotated[list[Measured | Repeated], Several]
    layers: Annotated[list[Layer], Several]
    weights: Spread


class Machine(Strict):
    """What was measured on."""

    device: str
    threads: PositiveInt
    precision: str
    python: str
    packages: dict[str, str]


class Timing(Strict):
    """The latency of a network."""

    name: str
    backend: str
    precision: str
    batch_size: PositiveInt
    latency_ms_p50: Positive
    latency_ms_quantiles: Annotated[list[float], Field(min_length=QUANTILES, max_length=QUANTILES)]
    told: str = ""


class Operator(Strict):
    """The time that an operator takes of one call of a network."""

    name: str
    operator: str
    batch_size: PositiveInt
    cpu_ms: float
    cuda_ms: float


class Speed(Strict):
    """metrics/speed/benchmark.json"""

    environment: Machine
    latency: Annotated[list[Timing], Several]
    operators: Annotated[list[Operator], Several]


def read_record(path: Path, shape: type[BaseModel]) -> Any:
    """The content of a file, all of it, once it has the shape.

    Raises:
        InputError: if it is missing, no JSON, or of another shape, which the first place that differs shows.
    """
    content = read_json(path)
    try:
        validate(shape, content)
    except InputError as error:
        raise InputError(f"{path} is damaged: {error.problems[0]}; {restored(path)}") from None
    return content


def restored(path: Path) -> str:
    """How to have a damaged file back."""
    return f"`git checkout {path}`, `dvc checkout {path}` or `dvc repro` restores it"
