from copy import deepcopy

import pytest
import torch
from torch import nn

from prunelab.artifacts.networks import ModelCard, Network, load_network, save_network
from prunelab.core.errors import InputError
from prunelab.models.catalogue import build, example_input, prunable_weights
from prunelab.models.cost import macs
from prunelab.pruning.structured import channels
from prunelab.pruning.structured.attention import find
from prunelab.pruning.structured.budget import Costs
from prunelab.pruning.structured.groups import Group

TOKENS = 12
SIZES = {"vocab": 50, "hidden": 24, "layers": 2, "heads": 4, "intermediate": 40, "positions": 16}


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


def dropped(group: Group) -> list[int]:
    return [0, 2] if group.kind == "head" else list(range(1, 33))


def thinned(model: nn.Module) -> nn.Module:
    thin = deepcopy(model)
    for group in find(thin):
        group.remove(dropped(group))
    return thin


def test_an_encoder_has_one_group_of_heads_and_one_of_hidden_units_in_every_layer(model):
    found = find(model)
    assert [(group.kind, group.count) for group in found] == [("head", 4), ("hidden", 40)] * 2
    assert all(isinstance(model.get_submodule(group.name), nn.Module) for group in found)
    assert find(build("resnet8", 3, (1, 8, 8))) == []


def test_what_is_removed_is_what_was_zeroed(model, texts):
    masked = deepcopy(model)
    found = find(masked)
    channels.silence(masked, found, [dropped(group) for group in found])
    thin = thinned(model)
    torch.testing.assert_close(thin(texts), masked(texts), rtol=1e-9, atol=1e-9)
    assert (thin(texts) - model(texts)).abs().max() > 1e-3  # the units mattered


@pytest.mark.parametrize("kind", ["head", "hidden"])
def test_every_unit_matters_and_goes_alone(model, texts, kind):
    """Each unit's removal changes the output, and no two units' in the same way."""
    outputs = []
    for unit in range(4):
        thin = deepcopy(model)
        next(group for group in find(thin) if group.kind == kind).remove([unit])
        outputs.append(thin(texts))
    for index, output in enumerate(outputs):
        for other in [model(texts), *outputs[:index]]:
            assert (output - other).abs().max() > 1e-6


def test_parameters_and_macs_fall_by_what_the_units_cost(model):
    thin, hidden = thinned(model), SIZES["hidden"]
    head = 6  # 24 / 4
    # A head has q, k, v rows with biases and columns of the output; a hidden unit a row with a bias and a column.
    lost = 2 * (2 * (4 * head * hidden + 3 * head) + 32 * (2 * hidden + 1))
    count = [sum(parameter.numel() for parameter in net.parameters()) for net in (model, thin)]
    assert count[0] - count[1] == lost
    per_token = 2 * (2 * 4 * head * hidden + 32 * 2 * hidden)
    products = (
        2 * 2 * (2 * TOKENS * TOKENS * head)
    )  # scores and weighted values, of two heads in two layers
    assert macs(model, (TOKENS,)) - macs(thin, (TOKENS,)) == pytest.approx(
        TOKENS * per_token + products, rel=0.03
    )


def test_macs_are_those_counted_by_hand():
    hidden, layers, tokens, inner = 128, 2, 64, 512  # the sizes of an encoder from scratch
    by_hand = (
        layers * (tokens * (4 * hidden**2 + 2 * hidden * inner) + 2 * tokens**2 * hidden)
        + hidden * 3
    )
    assert macs(build("bert", 3, (tokens,)), (tokens,)) == pytest.approx(by_hand, rel=0.03)


def test_a_thin_encoder_is_rebuilt_from_its_file_alone(model, texts, tmp_path):
    thin = thinned(model).float()
    card = ModelCard(
        model="bert",
        classes=3,
        input_shape=(TOKENS,),
        options=SIZES,
        normalise=None,
        seed=1,
        imported=None,
    )
    save_network(tmp_path / "thin.safetensors", Network(model=thin, card=card))
    again = load_network(tmp_path / "thin.safetensors").model
    assert torch.equal(again(texts), thin(texts))
    assert [group.count for group in find(again)] == [2, 8] * 2
    attention = again.get_submodule(find(again)[0].name)
    assert (attention.num_attention_heads, attention.all_head_size) == (2, 12)


def test_units_can_go_in_steps(model, texts):
    steps, once = deepcopy(model), deepcopy(model)
    find(steps)[0].remove([1])
    find(steps)[0].remove([2])  # the third of those left: the fourth of the first
    find(once)[0].remove([1, 3])
    assert torch.equal(steps(texts), once(texts))


def test_at_least_one_unit_stays(model):
    for group in find(model):
        with pytest.raises(AssertionError, match="at least one unit stays"):
            group.remove(range(group.count))


def test_a_file_with_a_broken_head_is_refused(model, tmp_path):
    thin = deepcopy(model).float()
    for name in ("query", "key", "value"):
        linear = getattr(thin.encoder.encoder.layer[0].attention.self, name)
        linear.weight, linear.bias = nn.Parameter(linear.weight[:7]), nn.Parameter(linear.bias[:7])
    card = ModelCard(
        model="bert",
        classes=3,
        input_shape=(TOKENS,),
        options=SIZES,
        normalise=None,
        seed=1,
        imported=None,
    )
    save_network(tmp_path / "broken.safetensors", Network(model=thin, card=card))
    with pytest.raises(InputError, match="no whole number of heads"):
        load_network(tmp_path / "broken.safetensors")


def test_every_linear_layer_can_be_pruned_and_no_embedding(model):
    names = prunable_weights(model)
    assert (
        len(names) == 2 * 6 + 1
    )  # q, k, v, their output and two of the feed-forward part; the classifier
    assert not [name for name in names if "embedding" in name]


@pytest.mark.parametrize("kind", ["head", "hidden"])
@pytest.mark.parametrize("tokens", [16, 512])
def test_costs_foretold_are_those_of_the_thinner_encoder(kind, tokens):
    thin = build("bert", 3, (tokens,), **SIZES | {"positions": 512})
    found = [group for group in find(thin) if group.kind == kind]
    costs = Costs.of(thin, example_input((tokens,)), macs=True)
    assert costs.total(found, [group.count for group in found]) == macs(thin, (tokens,))
    foretold = costs.total(found, [group.count // 2 for group in found])
    for group in found:
        group.remove(range(group.count // 2))
    assert macs(thin, (tokens,)) == pytest.approx(foretold, rel=0.01)
