"""Find groups in text encoders: attention heads (Michel et al. 2019) and feed-forward units."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from prunelab.models.bert import Bert
from prunelab.pruning.structured.groups import Group, Member

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertLayer


def find_groups(model: nn.Module) -> list[Group]:
    """Two groups for every encoder layer, from the first layer on: its heads, its hidden units.

    The width of the residual stream, to which all layers add, stays. Networks that are no
    encoders have no such groups.
    """
    if not isinstance(model, Bert):
        return []

    names = {module: name for name, module in model.named_modules()}
    layers = cast("Iterable[BertLayer]", model.encoder.get_submodule("encoder.layer"))
    groups = []
    for layer in layers:
        groups += [_head_group(layer, names), _hidden_group(layer, names)]
    return groups


def _head_group(layer: "BertLayer", names: dict[nn.Module, str]) -> Group:
    attention = layer.attention.self
    count = attention.query.out_features // int(attention.attention_head_size)

    producers = [attention.query, attention.key, attention.value]
    members = _members(producers, layer.attention.output.dense, count, names)
    return Group(names[attention], "head", count, members)


def _hidden_group(layer: "BertLayer", names: dict[nn.Module, str]) -> Group:
    producer = layer.intermediate.dense
    count = producer.out_features

    members = _members([producer], layer.output.dense, count, names)
    return Group(names[producer], "hidden", count, members)


def _members(
    producers: Sequence[nn.Linear], consumer: nn.Linear, count: int, names: dict[nn.Module, str]
) -> list[Member]:
    """Units are blocks of rows in the `producers` and of columns in the `consumer`."""
    indices = torch.arange(consumer.in_features)
    unit_ids = indices // (consumer.in_features // count)

    members = [Member(names[layer], layer, True, indices, unit_ids) for layer in producers]
    members.append(Member(names[consumer], consumer, False, indices, unit_ids))
    return members
