"""The shapes of the JSON files that stages write and other stages read.

Attributes are JSON keys. A file of another shape is an error that names the place.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from prunelab.config.problems import validate
from prunelab.core.errors import InputError
from prunelab.core.files import PathLike, read_json

QUANTILES = 21  # of a latency: 0, 5, 10 ... 100 %
NonEmpty = Field(min_length=1)
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

ALL = "all"  # the name of the curve of all layers together


class Strict(BaseModel):
    """A mapping with at least these keys, of exactly these types; numbers are finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class SensitivityPoint(Strict):
    """One point of a sensitivity curve: the accuracy after one layer lost a share of its units."""

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
    seeds: Annotated[list[int], NonEmpty]
    networks: list[str]
    accuracy: Share
    rows: Annotated[list[SensitivityPoint], NonEmpty]
    skipped: dict[str, str]


class SearchedTry(Strict):
    """One try of a search."""

    method: str
    what: str
    complete: bool
    front: bool
    share: Positive
    drop: float


class SearchedNetwork(Strict):
    """A network that a search trained again, with fresh seeds."""

    role: Literal["candidate", "random", "scratch"]
    method: str
    share: Positive
    drop: float
    drop_ci95: float


class SearchResult(Strict):
    """searches/<name>.json"""

    title: str
    model: str
    dataset: str
    noun: str
    max_drop: float
    answer: list[str]
    tries: list[SearchedTry]
    finals: list[SearchedNetwork]
    importances: dict[str, float]


class Seed(Strict):
    """The network of a seed, by its hash."""

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
    """What is left of a layer, as means over the seeds."""

    layer: str
    sparsity: Share
    width: float
    width_dense: Positive
    weights_nonzero: float
    weights_dense: float


class Spread(Strict):
    """A histogram of weights from -limit to limit."""

    limit: Positive
    counts: Annotated[list[NonNegativeInt], NonEmpty]


class Details(Strict):
    """metrics/details/base.json and the same of every cell of the grid

    `metrics` are those that are not in the headline; older files lack them.
    """

    metrics: dict[str, int | float] = {}
    seeds: Annotated[list[Seed], NonEmpty]
    measures: Annotated[list[Measured | Repeated], NonEmpty]
    layers: Annotated[list[Layer], NonEmpty]
    weights: Spread


class Machine(Strict):
    """The machine of a measurement."""

    device: str
    threads: PositiveInt
    precision: str
    python: str
    packages: dict[str, str]


class Timing(Strict):
    """The latency of a network, and how many times faster than the dense one it is."""

    name: str
    backend: str
    precision: str
    batch_size: PositiveInt
    latency_ms_p50: Positive
    latency_ms_quantiles: Annotated[list[float], Field(min_length=QUANTILES, max_length=QUANTILES)]
    faster: Positive = 1.0
    faster_low: Annotated[float, Field(ge=0)] = 1.0  # of very few rounds it rounds to 0
    faster_high: Positive = 1.0
    told: str = ""


class Operator(Strict):
    """The time that an operator takes in one call of a network."""

    name: str
    operator: str
    batch_size: PositiveInt
    cpu_ms: float
    cuda_ms: float


class Speed(Strict):
    """metrics/speed/benchmark.json"""

    environment: Machine
    latency: Annotated[list[Timing], NonEmpty]
    operators: Annotated[list[Operator], NonEmpty]


def read_record(path: PathLike, shape: type[BaseModel]) -> dict[str, Any]:
    """The whole content of a file that has the given shape.

    Raises:
        InputError: if it is missing, no JSON, or of another shape; it names the first place that
            differs.
    """
    content: dict[str, Any] = read_json(path)
    try:
        validate(shape, content)
    except InputError as error:
        hint = recovery_hint(path)
        raise InputError(f"{path} is damaged: {error.problems[0]}; {hint}") from None
    return content


def recovery_hint(path: PathLike) -> str:
    """The commands that restore a damaged file."""
    return f"`git checkout {path}`, `dvc checkout {path}` or `dvc repro` restores it"
