"""Groups of channels in networks of every structure: what may go, and what must stay and why."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.models.cost import macs_at
from prunelab.pruning.structured import channels
from prunelab.pruning.structured.budget import Costs
from prunelab.pruning.structured.groups import FoundGroups, Group

IMAGES = torch.zeros(1, 3, 8, 8)


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


class Net(nn.Module):
    """A first convolution, something in between, and a convolution and a classifier behind it."""

    def __init__(self, width: int = 8, **layers: nn.Module) -> None:
        super().__init__()
        self.first = conv(3, width)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.last = nn.LazyConv2d(6, 1)
        self.head = nn.Linear(6, 4)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.between(self.first(x)).relu()).relu()
        return self.head(x.mean((2, 3)))


def find(net: nn.Module) -> FoundGroups:
    net(IMAGES)  # gives lazy layers their sizes
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return channels.find_groups(net, [], IMAGES)


def widths(found: FoundGroups) -> dict[str, int]:
    return {group.name: group.count for group in found.groups}


def silenced(net: nn.Module, layers: tuple[str, ...], units: list[list[int]]) -> nn.Module:
    """A copy in which hooks silence outputs of layers: another way than the library checks by."""
    copy = deepcopy(net)
    for layer, channels_of_layer in zip(layers, units, strict=True):

        def silence(
            module: nn.Module,
            inputs: object,
            output: Tensor,
            indices: list[int] = channels_of_layer,
        ) -> Tensor:
            alive = torch.ones(output.shape[1])
            alive[indices] = 0
            return output * alive.view(1, -1, 1, 1)

        copy.get_submodule(layer).register_forward_hook(silence)
    return copy


class Grouped(Net):
    def __init__(self) -> None:
        super().__init__(8, grouped=conv(8, 12, groups=2))

    def between(self, x: Tensor) -> Tensor:
        return self.grouped(x.relu())


def test_groups_of_filters_lose_the_same_channels_each():
    net = Grouped()
    found = find(net)
    assert widths(found) == {"last": 6, "grouped": 6, "first": 4}

    expected = silenced(net, ("first", "grouped"), [[1, 5], [0, 2, 6, 8]])
    groups = {group.name: group for group in found.groups}
    channels.take_out(net, [groups["first"], groups["grouped"]], [[1], [0, 2]])

    assert net.grouped.weight.shape == (8, 3, 3, 3)
    assert (net.grouped.groups, net.grouped.in_channels, net.grouped.out_channels) == (2, 6, 8)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net(images), expected(images))


def test_filters_of_one_input_each_keep_their_groups_step_by_step():
    net = Grouped()
    found = find(net)
    at_once = deepcopy(net)
    order = [group.name for group in found.groups]

    def drop(network: nn.Module, groups: list[Group], **units: list[int]) -> list[Group]:
        return channels.take_out(network, groups, [units.get(name, []) for name in order])

    groups = drop(net, found.groups, first=[0, 1, 2])
    drop(net, groups, grouped=[0, 1, 2, 3])
    drop(at_once, found.groups, first=[0, 1, 2], grouped=[0, 1, 2, 3])

    assert net.grouped.weight.shape == (4, 1, 3, 3)
    assert net.grouped.groups == at_once.grouped.groups == 2
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(net(images), at_once(images))


class Enlarged(Net):
    """A U: the first convolution's maps, and beside them the same by a way through smaller ones."""

    def __init__(self, groups: int = 1) -> None:
        enlarge = nn.ConvTranspose2d(10, 4, 2, stride=2, groups=groups)
        super().__init__(8, deep=conv(8, 10), enlarge=enlarge)

    def between(self, x: Tensor) -> Tensor:
        small = self.deep(F.max_pool2d(x, 2)).relu()
        return torch.cat((x, self.enlarge(small)), 1)


def test_a_transposed_convolution_loses_inputs_and_keeps_its_own_channels():
    net = Enlarged()
    found = find(net)
    assert widths(found) == {"last": 6, "deep": 10, "first": 8}
    reasons = {kept.layers: kept.reason for kept in found.kept}
    assert reasons == {("enlarge",): "a transposed convolution keeps its own channels"}

    expected = silenced(net, ("first", "deep"), [[0, 7], [2, 3, 9]])
    groups = {group.name: group for group in found.groups}
    channels.take_out(net, [groups["first"], groups["deep"]], [[0, 7], [2, 3, 9]])

    assert net.enlarge.weight.shape == (7, 4, 2, 2)
    assert (net.enlarge.in_channels, net.enlarge.out_channels) == (7, 4)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net(images), expected(images))


@pytest.mark.parametrize("count_macs", [False, True])
def test_predicted_costs_are_those_of_the_network_without_the_inputs(count_macs):
    net = Enlarged()
    groups = find(net).groups
    costs = Costs.of(net, IMAGES, macs=count_macs)
    kept = [4, 7, 5]
    predicted = costs.total(groups, kept)

    lost = [range(group.count - width) for group, width in zip(groups, kept, strict=True)]
    channels.take_out(net, groups, lost)
    if count_macs:
        # The mean over all positions costs a little, too.
        assert predicted == pytest.approx(macs_at(net, IMAGES), rel=0.001)
    else:
        assert predicted == sum(parameter.numel() for parameter in net.parameters())


def test_what_a_transposed_convolution_in_groups_takes_in_stays():
    found = find(Enlarged(groups=2))
    assert widths(found) == {"last": 6, "first": 8}
    assert [kept.layers for kept in found.kept] == [("deep",)]
    assert "in groups" in found.kept[0].reason


class Depthwise(Net):
    def __init__(self) -> None:
        super().__init__(8, depthwise=conv(8, 16, groups=8))

    def between(self, x: Tensor) -> Tensor:
        return self.depthwise(x)


def test_a_depthwise_convolution_loses_all_filters_of_a_channel():
    net = Depthwise()
    found = find(net)
    assert widths(found) == {"last": 6, "depthwise": 8}

    expected = silenced(net, ("first", "depthwise"), [[3], [6, 7]])
    channels.take_out(net, [found.groups[1]], [[3]])

    assert (net.depthwise.groups, net.depthwise.out_channels) == (7, 14)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net(images), expected(images))


class Shuffled(Net):
    """The channels of two convolutions, shuffled into each other and cut in halves."""

    def __init__(self) -> None:
        super().__init__(6, second=conv(3, 6), third=conv(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat((self.first(x), self.second(x)), 1)
        count, width, *size = both.shape
        shuffled = both.view(count, 2, width // 2, *size).transpose(1, 2).reshape(both.shape)
        kept, changed = shuffled.chunk(2, dim=1)
        x = torch.cat((kept, self.third(changed)), 1)
        return self.head(self.last(x).relu().mean((2, 3)))


def test_shuffled_channels_go_in_sets_that_keep_the_halves_equal():
    found = find(Shuffled())

    # Channel i of one convolution goes with i of the other, and with i + 3 in the other half.
    assert widths(found) == {"last": 6, "third": 5, "first": 3}
    (shuffled,) = (group for group in found.groups if group.name == "first")
    assert set(shuffled.layers) == {"first", "second"}
    for member in shuffled.filters:
        assert member.indices_of([0]).tolist() == [0, 3]


class Cut(Net):
    def between(self, x: Tensor) -> Tensor:
        small, large = x.split([2, 6], dim=1)
        return torch.cat((large, small), 1)


class Normed(Net):
    def __init__(self) -> None:
        super().__init__(8, norm=nn.LayerNorm(8))

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GroupNormed(Net):
    def __init__(self) -> None:
        super().__init__(8, norm=nn.GroupNorm(2, 8))

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Attending(Net):
    def between(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        return (tokens @ tokens.transpose(1, 2) @ tokens).view(x.shape)


class Offset(Net):
    def __init__(self) -> None:
        super().__init__(8)
        self.offset = nn.Parameter(torch.ones(8, 1, 1))

    def between(self, x: Tensor) -> Tensor:
        return x + self.offset


class Sorted(Net):
    def between(self, x: Tensor) -> Tensor:
        return x.sort(dim=1).values


class Remembering(Net):
    """Its code rests on a width, which no function of torch shows."""

    def between(self, x: Tensor) -> Tensor:
        return x.clone() * (x.shape[1] / 8)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Cut, "split cuts them at fixed places"),
        (Normed, "norm averages over them"),
        (GroupNormed, "norm averages over them"),
        (Attending, "matmul multiplies activations with each other"),
        (Offset, "add joins them with a parameter of fixed width"),
        (Sorted, "sort may mix channels"),
        (Remembering, "computes something else than with zeros"),
    ],
)
def test_channels_that_cannot_go_are_kept_with_the_reason_and_others_go(kind, reason):
    found = find(kind())

    assert widths(found) == {"last": 6}
    (kept,) = found.kept
    assert kept.layers == ("first",)
    assert reason in kept.describe()


class LayerScale(nn.Module):
    def __init__(self, shape: tuple[int, ...], *, others: int = 0) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(shape))
        if others:
            self.other = nn.Parameter(torch.ones(others))

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(self.gamma.view(-1, 1, 1))


class Scaled(Net):
    def __init__(self, shape: tuple[int, ...] = (8,), others: int = 0) -> None:
        super().__init__(8, scale=LayerScale(shape, others=others))

    def between(self, x: Tensor) -> Tensor:
        return x + self.scale(x)


@pytest.mark.parametrize("shape", [(8,), (8, 1, 1)])
def test_a_scale_of_every_channel_goes_with_its_channel(shape):
    net = Scaled(shape)
    found = find(net)
    assert widths(found) == {"last": 6, "first": 8}

    expected = silenced(net, ("first",), [[2, 5]])
    channels.take_out(net, [found.groups[1]], [[2, 5]])

    assert net.scale.gamma.shape == (6, *shape[1:])
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net(images), expected(images))


def test_a_scale_beside_tensors_of_another_size_keeps_its_channels():
    found = find(Scaled(others=3))

    assert widths(found) == {"last": 6}
    (kept,) = found.kept
    assert kept.reason == "mul joins them with a tensor of fixed width"


class Padded(Net):
    def __init__(self, **options: object) -> None:
        super().__init__(8, padded=nn.Conv2d(8, 8, 3, groups=8))
        self.options = options

    def between(self, x: Tensor) -> Tensor:
        return self.padded(F.pad(x, (1, 1, 1, 1), **self.options))


@pytest.mark.parametrize("options", [{}, {"mode": "reflect"}, {"value": 0.0}])
def test_a_border_of_zeros_or_of_a_channels_own_values_goes_with_the_channel(options):
    net = Padded(**options)
    found = find(net)
    assert widths(found) == {"last": 6, "padded": 8}

    expected = silenced(net, ("first", "padded"), [[2, 5], [2, 5]])
    channels.take_out(net, [found.groups[1]], [[2, 5]])
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net(images), expected(images))


def test_a_border_of_ones_would_remain_without_its_channel_and_keeps_it():
    assert widths(find(Padded(value=1.0))) == {"last": 6}


class Widened(Net):
    """A shortcut that is padded by channels, as in networks for CIFAR."""

    def between(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 1, 1))


def test_padding_by_channels_moves_them():
    found = find(Widened())

    (group,) = (group for group in found.groups if group.name == "first")
    (consumer,) = (member for member in group.members if member.layer == "last")
    assert consumer.indices.tolist() == list(range(1, 9))


class ReshapedAs(Net):
    """A norm of tokens side by side, put back into the shape of what came in."""

    def __init__(self) -> None:
        super().__init__(8, norm=nn.BatchNorm1d(8))

    def between(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        normed = self.norm(tokens.flatten(0, 1)).reshape_as(tokens)
        return normed.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])


def test_channels_are_followed_through_a_reshape_like_another_tensor():
    found = find(ReshapedAs())

    assert widths(found) == {"last": 6, "first": 8}
    assert {"norm"} <= {member.layer for member in found.groups[1].members}


class Remembers(Net):
    """In evaluation it keeps what it computed of its weights, as some attention does its biases."""

    def __init__(self) -> None:
        super().__init__(8)
        self.cache: dict[str, Tensor] = {"before": torch.ones(1)}

    def between(self, x: Tensor) -> Tensor:
        scale = self.head.weight.mean() * 2
        if not self.training:
            scale = self.cache.setdefault("scale", scale)
        return x * scale


def test_what_a_network_remembers_of_its_weights_is_not_kept_from_the_search():
    net = Remembers()

    assert widths(find(net)) == {"last": 6, "first": 8}
    assert list(net.cache) == ["before"]


class Gated(Net):
    """A map of one channel weighs all positions, and a gate of its own weighs every channel."""

    def __init__(self) -> None:
        super().__init__(8, where=conv(8, 1), squeeze=conv(8, 4), excite=conv(4, 8))

    def between(self, x: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid() * self.where(x).sigmoid()


def test_a_gate_goes_with_its_channels_and_a_map_for_all_channels_stays():
    found = find(Gated())

    assert widths(found) == {"last": 6, "first": 8, "squeeze": 4}
    (gated,) = (group for group in found.groups if group.name == "first")
    assert set(gated.layers) == {"first", "excite"}
    assert [kept.layers for kept in found.kept] == [("where",)]


class Twice(Net):
    """One convolution is used twice: what it takes in and what it gives are the same channels."""

    def __init__(self) -> None:
        super().__init__(8, shared=conv(8, 8))

    def between(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(x))


def test_a_layer_that_is_used_twice_loses_the_same_channels_on_both_sides():
    found = find(Twice())

    assert widths(found) == {"last": 6, "shared": 8}
    (shared,) = (group for group in found.groups if group.name == "shared")
    sides = {(member.layer, member.loses_outputs) for member in shared.members}
    assert {("shared", True), ("shared", False), ("first", True), ("last", False)} <= sides


class Parts(nn.Module):
    """Three convolutions side by side, whose channels one layer takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(conv(3, width) for width in (4, 5, 6))
        self.head = nn.Linear(15, 4)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([part(x) for part in self.parts], 1)
        return self.head(joined.relu().mean((2, 3)))


def test_groups_that_end_in_one_layer_shrink_together_step_by_step():
    net = Parts()
    found = find(net)
    at_once = deepcopy(net)
    names = [group.name for group in found.groups]
    drops = {"parts.0": [[0], [1]], "parts.1": [[4], [0, 1]], "parts.2": [[], [5]]}

    groups = channels.take_out(net, found.groups, [drops[name][0] for name in names])
    groups = channels.take_out(net, groups, [drops[name][1] for name in names])
    all_at_once = {"parts.0": [0, 2], "parts.1": [4, 0, 1], "parts.2": [5]}
    copies = channels.find_groups(at_once, [], IMAGES).groups
    channels.take_out(at_once, copies, [all_at_once[group.name] for group in copies])

    assert {group.name: group.count for group in groups} == {
        "parts.0": 2,
        "parts.1": 2,
        "parts.2": 5,
    }
    for name, tensor in at_once.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor), name


class Cast(Net):
    """Its code asks for single precision, as that of networks for bytes does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() / 255)


class CastShifted(Cast):
    def between(self, x: Tensor) -> Tensor:
        return x + 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_network_that_cannot_compute_in_double_precision_is_checked_in_its_own(dtype):
    net = Cast()
    find(net)
    images = (torch.rand(1, 3, 8, 8) * 255).to(dtype)

    assert widths(channels.find_groups(net, [], images)) == {"last": 6, "first": 8}
    shifted = CastShifted()
    find(shifted)
    assert widths(channels.find_groups(shifted, [], images)) == {"last": 6}


class Recurrent(Net):
    """Its hidden state begins as zeros in single precision."""

    def __init__(self) -> None:
        super().__init__(8, cell=nn.GRUCell(6, 5))
        self.after = nn.Linear(5, 7)
        self.head = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        features = self.last(self.first(x).relu()).relu().mean((2, 3))
        state = self.cell(features, torch.zeros(len(x), 5))
        return self.head(self.after(state).relu())


def test_a_hidden_state_in_single_precision_stops_nothing():
    assert widths(find(Recurrent())) == {"after": 7, "first": 8}


class Logarithm(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.log())


def test_inputs_that_must_be_positive_are_those_of_the_example():
    net = Logarithm()
    find(net)

    found = channels.find_groups(net, [], torch.rand(1, 3, 8, 8) + 0.5)
    assert widths(found) == {"last": 6, "first": 8}


class Patches(Net):
    def between(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, 3, padding=1)
        return F.fold(columns, x.shape[2:], 3, padding=1)


class Exponential(Net):
    def between(self, x: Tensor) -> Tensor:
        return torch.pow(2.0, x)


@pytest.mark.parametrize(("kind", "name"), [(Patches, "unfold"), (Exponential, "pow")])
def test_functions_that_labels_cannot_follow_keep_the_channels(kind, name):
    found = find(kind())

    assert widths(found) == {"last": 6}
    (kept,) = found.kept
    assert kept.reason == f"{name} may mix channels"


class TwoWeights(nn.Module):
    """Two products by two weights of one module."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(hidden, 8))
        self.down = nn.Parameter(torch.empty(8, hidden))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.up).relu(), self.down)


class InOneModule(Net):
    def __init__(self, hidden: int) -> None:
        super().__init__(8, both=TwoWeights(hidden))

    def between(self, x: Tensor) -> Tensor:
        return self.both(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("hidden", [8, 12])
def test_a_module_with_several_weights_keeps_what_it_takes_in(hidden):
    found = find(InOneModule(hidden))

    assert widths(found) == {"last": 6}
    (kept,) = found.kept
    assert kept.layers == ("first",)


class ShuffledByTorch(Net):
    def __init__(self) -> None:
        super().__init__(8, shuffle=nn.ChannelShuffle(2))

    def between(self, x: Tensor) -> Tensor:
        return self.shuffle(x)


@pytest.mark.parametrize("unit", range(4))
def test_torchs_own_shuffle_loses_the_same_channels_of_each_of_its_groups(unit):
    net = ShuffledByTorch()
    found = find(net)
    assert widths(found) == {"last": 6, "first": 4}

    expected = silenced(net, ("first",), [[unit, unit + 4]])
    channels.remove_units(net, [found.groups[1]], [[unit]], IMAGES)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net(images), expected(images))


class PlainNorm(Net):
    """A batch norm without scales and shifts, whose mean is not what it began with."""

    def __init__(self) -> None:
        super().__init__(8, norm=nn.BatchNorm2d(8, affine=False))
        self.norm.running_mean.uniform_(-2, -1)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_channels_go_before_a_norm_without_scales_and_shifts():
    net = PlainNorm()
    found = find(net)
    assert widths(found) == {"last": 6, "first": 8}

    expected = silenced(net, ("norm",), [[2, 5]])
    zeroed = channels.zero_units(deepcopy(net), [found.groups[1]], [[2, 5]])
    channels.remove_units(net, [found.groups[1]], [[2, 5]], IMAGES)

    images = torch.randn(2, 3, 8, 8)
    assert net.norm.running_mean.shape == (6,)
    torch.testing.assert_close(net(images), expected(images))
    torch.testing.assert_close(zeroed(images), expected(images))
