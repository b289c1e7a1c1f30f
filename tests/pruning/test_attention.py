"""Heads and hidden units of encoders: what their removal does to outputs, costs and files."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from prunelab.artifacts.networks import ModelCard, Network, load_network, save_network
from prunelab.core.errors import InputError
from prunelab.models.cost import macs
from prunelab.models.networks import build, example_input, prunable_weights
from prunelab.pruning.structured import channels
from prunelab.pruning.structured.attention import find_groups
from prunelab.pruning.structured.budget import Costs
from prunelab.pruning.structured.groups import Group

TOKENS = 12
SIZES = {"vocab": 50, "hidden": 24, "layers": 2, "heads": 4, "intermediate": 40, "positions": 16}
CARD = ModelCard(
    model="bert",
    classes=3,
    input_shape=(TOKENS,),
    options=SIZES,
    normalise=None,
    seed=1,
    imported=None,
)


@pytest.fixture
def model() -> nn.Module:
    """A tiny encoder whose biases, zero at the start, are made to matter."""
    model = build("bert", 3, (TOKENS,), seed=1, **SIZES).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def texts() -> torch.Tensor:
    """Five texts of lengths 3 to 12, padded."""
    ids = torch.randint(1, SIZES["vocab"], (5, TOKENS), generator=torch.Generator().manual_seed(0))
    for row, length in enumerate((3, 5, 8, 11, 12)):
        ids[row, length:] = 0
    return ids


def dropped_units(group: Group) -> list[int]:
    return [0, 2] if group.kind == "head" else list(range(1, 33))


def pruned_copy(model: nn.Module) -> nn.Module:
    pruned = deepcopy(model)
    groups = find_groups(pruned)
    channels.take_out(pruned, groups, [dropped_units(group) for group in groups])
    return pruned


def test_every_encoder_layer_has_a_group_of_heads_and_one_of_hidden_units(model):
    groups = find_groups(model)

    assert [(group.kind, group.count) for group in groups] == [("head", 4), ("hidden", 40)] * 2
    assert all(isinstance(model.get_submodule(group.name), nn.Module) for group in groups)


def test_an_image_network_has_no_encoder_groups():
    assert find_groups(build("resnet8", 3, (1, 8, 8))) == []


def test_removing_units_gives_the_outputs_of_zeroing_them(model, texts):
    zeroed = deepcopy(model)
    groups = find_groups(zeroed)
    channels.zero_units(zeroed, groups, [dropped_units(group) for group in groups])

    pruned = pruned_copy(model)

    torch.testing.assert_close(pruned(texts), zeroed(texts), rtol=1e-9, atol=1e-9)
    assert (pruned(texts) - model(texts)).abs().max() > 1e-3  # the units mattered


@pytest.mark.parametrize("kind", ["head", "hidden"])
def test_removing_each_unit_changes_the_outputs_in_its_own_way(model, texts, kind):
    outputs = [model(texts)]
    for unit in range(4):
        pruned = deepcopy(model)
        group = next(group for group in find_groups(pruned) if group.kind == kind)
        channels.take_out(pruned, [group], [[unit]])
        outputs.append(pruned(texts))

    for index, output in enumerate(outputs):
        for earlier in outputs[:index]:
            assert (output - earlier).abs().max() > 1e-6


def test_parameters_and_macs_fall_by_the_cost_of_the_units(model):
    pruned, hidden = pruned_copy(model), SIZES["hidden"]
    head_size = 6  # 24 / 4
    counts = [sum(p.numel() for p in network.parameters()) for network in (model, pruned)]

    # A head has rows with biases in query, key and value, and columns of the output. A hidden
    # unit has a row with a bias, and a column. Each of 2 layers loses 2 heads and 32 units.
    two_heads = 2 * (4 * head_size * hidden + 3 * head_size)
    hidden_units = 32 * (2 * hidden + 1)
    assert counts[0] - counts[1] == 2 * (two_heads + hidden_units)

    per_token = 2 * (2 * 4 * head_size * hidden + 32 * 2 * hidden)
    attention_scores = TOKENS * TOKENS * head_size
    products = 2 * 2 * (2 * attention_scores)  # scores and weighted values
    saved = macs(model, (TOKENS,)) - macs(pruned, (TOKENS,))
    assert saved == pytest.approx(TOKENS * per_token + products, rel=0.03)


def test_macs_of_an_encoder_match_a_count_by_hand():
    hidden, layers, tokens, inner = 128, 2, 64, 512  # the sizes of an encoder from scratch
    linear = tokens * (4 * hidden**2 + 2 * hidden * inner)
    products = 2 * tokens**2 * hidden
    classifier = hidden * 3

    counted = macs(build("bert", 3, (tokens,)), (tokens,))

    assert counted == pytest.approx(layers * (linear + products) + classifier, rel=0.03)


def test_a_pruned_encoder_is_rebuilt_from_its_file_alone(model, texts, tmp_path):
    pruned = pruned_copy(model).float()

    save_network(tmp_path / "pruned.safetensors", Network(model=pruned, card=CARD))
    reloaded = load_network(tmp_path / "pruned.safetensors").model

    assert torch.equal(reloaded(texts), pruned(texts))
    assert [group.count for group in find_groups(reloaded)] == [2, 8] * 2
    attention = reloaded.get_submodule(find_groups(reloaded)[0].name)
    assert (attention.num_attention_heads, attention.all_head_size) == (2, 12)


def test_removing_units_in_steps_equals_removing_them_at_once(model, texts):
    in_steps, at_once = deepcopy(model), deepcopy(model)

    [heads] = channels.take_out(in_steps, find_groups(in_steps)[:1], [[1]])
    assert heads.count == find_groups(in_steps)[0].count
    channels.take_out(in_steps, [heads], [[2]])  # the third of those left is the fourth of all
    channels.take_out(at_once, find_groups(at_once)[:1], [[1, 3]])

    assert torch.equal(in_steps(texts), at_once(texts))


def test_at_least_one_unit_stays(model):
    for group in find_groups(model):
        with pytest.raises(AssertionError, match="at least one unit must stay"):
            channels.take_out(model, [group], [range(group.count)])


def test_a_file_with_part_of_a_head_is_an_error(model, tmp_path):
    broken = deepcopy(model).float()
    for name in ("query", "key", "value"):
        linear = getattr(broken.encoder.encoder.layer[0].attention.self, name)
        linear.weight, linear.bias = nn.Parameter(linear.weight[:7]), nn.Parameter(linear.bias[:7])
    save_network(tmp_path / "broken.safetensors", Network(model=broken, card=CARD))

    with pytest.raises(InputError, match="not a whole number of heads"):
        load_network(tmp_path / "broken.safetensors")


def test_every_linear_layer_can_be_pruned_and_no_embedding(model):
    names = prunable_weights(model)

    # Per layer: query, key, value, their output and two feed-forward layers. Then the classifier.
    assert len(names) == 2 * 6 + 1
    assert not [name for name in names if "embedding" in name]


@pytest.mark.parametrize("kind", ["head", "hidden"])
@pytest.mark.parametrize("tokens", [16, 512])
def test_predicted_costs_are_those_of_the_smaller_encoder(kind, tokens):
    model = build("bert", 3, (tokens,), **SIZES | {"positions": 512})
    groups = [group for group in find_groups(model) if group.kind == kind]
    costs = Costs.of(model, example_input((tokens,)), macs=True)
    assert costs.total(groups, [group.count for group in groups]) == macs(model, (tokens,))

    predicted = costs.total(groups, [group.count // 2 for group in groups])
    for group in groups:
        channels.take_out(model, [group], [range(group.count // 2)])

    assert macs(model, (tokens,)) == pytest.approx(predicted, rel=0.01)
