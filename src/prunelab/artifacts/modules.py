"""Networks of other people's classes as model files: tensors, widths and a card, but no code.

A file cannot say how such a network is built. Whoever reads it brings the dense network, and the
file makes it thinner. Networks of MODELS are in `networks`.
"""

import warnings
from collections import defaultdict
from math import prod
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from prunelab.artifacts.networks import MAX_INPUT_VALUES, state_tensors
from prunelab.artifacts.sealed import canonical_json
from prunelab.artifacts.tensors import save_tensors
from prunelab.config.params import Count, Normalise, PruneSpec
from prunelab.config.problems import describe_errors
from prunelab.core.errors import InputError
from prunelab.core.files import PathLike
from prunelab.core.model_files import MASK_PREFIX
from prunelab.models.resize import Widths, resize, set_recorded_widths


class ModuleCard(BaseModel):
    """The description in the file of a network that is not in MODELS.

    `module` is the name of its class, `input_shape` that of one input, and `input_dtype` torch's
    name of its type. `widths` are the numbers that layers hold about their widths, as far as they
    differ from the dense network's. `normalise` is for pixels scaled to 0..1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    module: str
    input_shape: tuple[Count, ...]
    input_dtype: Annotated[str, Field(pattern="^(float|bfloat|int|uint|bool)[0-9]*$")]
    widths: Widths = {}
    classes: tuple[str, ...] | None = None
    normalise: Normalise | None = None
    pruning: PruneSpec | None = None
    ratio_achieved: float = 0.0

    def text(self) -> str:
        """The card as files hold it: JSON that is the same to the byte for the same card."""
        return canonical_json(self.model_dump(mode="json"))

    def example(self) -> Tensor:
        """An input of zeros, [1, ...], on the CPU."""
        return torch.zeros(1, *self.input_shape, dtype=getattr(torch, self.input_dtype))


def save_module(
    path: PathLike, model: nn.Module, card: ModuleCard, masks: dict[str, Tensor]
) -> None:
    """Write a network as safetensors with one metadata key; equal networks give equal bytes.

    Raises:
        InputError: if a weight is not finite, or if the network keeps something else than tensors.
    """
    others = [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(f"{others[0]} of the network is no tensor, so it cannot be saved")

    tensors = _without_shared_memory(state_tensors(model))
    for name, mask in masks.items():
        tensors[f"{MASK_PREFIX}{name}"] = mask.cpu().contiguous()
    save_tensors(path, tensors, card.model_dump(mode="json"))


def _without_shared_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors; those that are in the same memory as another one are copied."""
    separate: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        if address in seen:
            tensor = tensor.clone()
        seen.add(address)
        separate[name] = tensor
    return separate


def read_module_card(path: PathLike, metadata: dict[str, Any]) -> ModuleCard:
    """The card in the metadata of a file.

    Raises:
        InputError: if it cannot be used.
    """
    try:
        card = ModuleCard.model_validate_json(canonical_json(metadata))
    except ValidationError as error:
        problem = describe_errors(error, ModuleCard)[0]
        raise InputError(f"{path} has a card that cannot be used: {problem}") from None

    if prod(card.input_shape) > MAX_INPUT_VALUES:
        raise InputError(f"{path} has a card that cannot be used: input_shape is too large")
    return card


def fill_module(
    path: PathLike, model: nn.Module, card: ModuleCard, tensors: dict[str, Tensor]
) -> nn.Module:
    """Make a dense network what the file at `path` holds, in place, and check that it runs.

    `tensors` are those of the file, without masks. Parameters that the dense network shares
    between layers stay shared.

    Raises:
        InputError: if the tensors do not fit the network. It may have changed then.
    """
    shared = _shared_parameters(model)
    try:
        resize(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        set_recorded_widths(model, card.widths)
        model.load_state_dict(tensors)
        _share_again(model, shared)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.eval()(card.example().to(next(iter(tensors.values())).device))
    except (InputError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} does not fit this {type(model).__name__}: {reason}. "
            f"Pass the dense network that was pruned, a {card.module}, freshly built"
        ) from None
    return model


def _shared_parameters(model: nn.Module) -> list[list[str]]:
    """The names of every parameter that has several."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return [group for group in names.values() if len(group) > 1]


def _share_again(model: nn.Module, shared: list[list[str]]) -> None:
    for first, *others in shared:
        parameter = model.get_parameter(first)
        for name in others:
            if torch.equal(model.get_parameter(name), parameter):
                module, _, key = name.rpartition(".")
                setattr(model.get_submodule(module), key, parameter)
