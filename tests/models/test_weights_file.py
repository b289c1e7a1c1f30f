"""Files of weights from other programs: read by their content, or named with what helps."""

import argparse
import gzip
import re
import warnings
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.networks import CARD, DIGITS_SHAPE, trained, zeroed
from helpers.params import PROJECT, edit_params, prune_spec
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from prunelab.artifacts.networks import Network, save_network
from prunelab.commands.check.check import find_problems
from prunelab.config.params import WeightsOptions
from prunelab.core.errors import InputError
from prunelab.models.networks import build, build_on_meta, prunable_weights
from prunelab.models.weights import load_weights
from prunelab.models.weights_file import EMA_KEYS, read_weights
from prunelab.models.weights_names import renamed
from prunelab.models.weights_source import AS_IT_IS
from prunelab.pruning.prune import prune

State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    return trained("resnet8").state_dict()


def loaded(path: Path, name: str = "resnet8", **options: object) -> State:
    """The tensors of a fresh network after the file was loaded."""
    model = zeroed(name, 10, DIGITS_SHAPE)
    load_weights(model, name, path, **options)
    return model.state_dict()


def equal(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def problem(path: Path, name: str = "resnet8") -> str:
    with pytest.raises(InputError) as error:
        loaded(path, name)
    (line,) = error.value.problems
    assert line.startswith(f"weights: {path} ")
    return line


# --- layouts ---


@pytest.mark.parametrize("key", ["state_dict", "net", "model", "weights of mine"])
def test_a_state_dict_is_read_from_whatever_key_it_has(tmp_path, state, key):
    torch.save({"epoch": 3, key: state, "best": None, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")

    assert equal(loaded(tmp_path / "w.pt"), state)
    assert any(repr(key) in note for note in read_weights(tmp_path / "w.pt").notes)


def test_of_several_state_dicts_that_under_state_dict_is_read(tmp_path, state):
    other = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"ema": other, "state_dict": state}, tmp_path / "w.pt")

    assert equal(loaded(tmp_path / "w.pt"), state)


def test_several_state_dicts_are_an_error_that_names_their_keys(tmp_path, state):
    torch.save({"model": state, "teacher": state, "epoch": 3}, tmp_path / "w.pt")

    assert "under the keys model, teacher" in problem(tmp_path / "w.pt")


def test_settings_and_numbers_of_numpy_beside_the_tensors_are_read_past(tmp_path, state):
    content = {
        "args": argparse.Namespace(lr=0.1, out=Path("runs")),
        "best": np.float64(0.9),
        "epoch": np.int64(3),
        "ok": np.bool_(True),
        "started": datetime.now(UTC),
        "took": timedelta(hours=3),
        "net": state,
    }
    torch.save(content, tmp_path / "w.pt")

    assert equal(loaded(tmp_path / "w.pt"), state)


# --- averages of weights ---


def averaged(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def with_options(**changes: object) -> WeightsOptions:
    return AS_IT_IS.model_copy(update=changes)


@pytest.mark.parametrize("key", EMA_KEYS)
@pytest.mark.parametrize("nested", [False, True])
def test_averaged_weights_are_read_on_request_alone(tmp_path, state, key, nested):
    average = averaged(state)
    if nested:
        content = {"model": state, key: {"decay": 0.999, "shadow": average}}
    else:
        content = {"model": state, key: average}
    torch.save(content, tmp_path / "w.pt")

    assert equal(loaded(tmp_path / "w.pt"), state)
    assert equal(loaded(tmp_path / "w.pt", options=with_options(ema=True)), average)
    (note,) = read_weights(tmp_path / "w.pt").notes
    assert note == f"the state_dict under the key 'model', and not the averaged weights under {key}"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_without_averaged_weights_is_an_error_with_the_option(tmp_path, state, wrapped):
    torch.save({"model": state} if wrapped else state, tmp_path / "w.pt")

    with pytest.raises(InputError, match=r"no averaged weights.*set weights_options\.ema: false"):
        loaded(tmp_path / "w.pt", options=with_options(ema=True))


# --- other names ---

RESNET = "torchvision/resnet18"
OTHER_NAMES = {"downsample": "shortcut", "fc": "linear"}


def resnet_with_other_names(classes: int = 5) -> tuple[State, State]:
    """A network's tensors, and the same as another implementation names them."""
    own = build(RESNET, classes, (3, 32, 32), 1).state_dict()
    other = {}
    for name, tensor in own.items():
        parts = [OTHER_NAMES.get(part, part) for part in name.split(".")]
        other[".".join(parts)] = tensor
    return own, other


def into_resnet(path: Path, **options: object) -> tuple[State, list[str]]:
    model = zeroed(RESNET, 5, (3, 32, 32))
    notes = load_weights(model, RESNET, path, options=with_options(**options))
    return model.state_dict(), notes


def test_parts_of_names_are_renamed_and_the_message_says_which_would_help(tmp_path):
    own, other = resnet_with_other_names()
    torch.save(other, tmp_path / "w.pt")

    with pytest.raises(InputError) as error:
        into_resnet(tmp_path / "w.pt")
    (line,) = error.value.problems
    assert "nearest to which is layer2.0.shortcut.0.weight (128, 64, 1, 1)" in line
    assert "weights_options.rename: {shortcut: downsample, linear: fc}" in line

    back = {other: own for own, other in OTHER_NAMES.items()}
    state, notes = into_resnet(tmp_path / "w.pt", rename=back)
    assert equal(state, own)
    assert notes == ["20 names changed by {shortcut: downsample, linear: fc}"]


@given(st.permutations(["a", "b", "c", "d"]), st.data())
def test_renaming_is_undone_by_its_inverse(order, data):
    names = data.draw(
        st.lists(
            st.lists(st.sampled_from("abcdxyz"), min_size=1, max_size=4).map(".".join), unique=True
        )
    )
    state = {name: torch.zeros(1) for name in [*names, "a.b.c.d.first"]}
    forth = dict(zip("abcd", order, strict=True))
    back = {new: old for old, new in forth.items()}

    there, _ = renamed(state, forth)
    again, _ = renamed(there, back)

    assert list(again) == list(state)


@pytest.mark.parametrize(
    ("rename", "named"),
    [
        (
            {"shortcuts": "downsample"},
            "no name in the file has the part 'shortcuts' (did you mean 's",
        ),
        ({"layer1": "layer2"}, "two tensors would be called 'layer2."),
    ],
)
def test_a_renaming_that_changes_nothing_or_merges_names_is_an_error(tmp_path, rename, named):
    torch.save(resnet_with_other_names()[1], tmp_path / "w.pt")

    with pytest.raises(InputError) as error:
        into_resnet(tmp_path / "w.pt", rename=rename)
    (line,) = error.value.problems
    assert line.startswith("weights_options.rename: ")
    assert named in line


def test_tensors_are_taken_by_their_order_only_if_asked(tmp_path):
    own = build(RESNET, 5, (3, 32, 32), 1).state_dict()
    numbered = {}
    for number, (name, tensor) in enumerate(own.items()):
        if not name.endswith("num_batches_tracked"):
            numbered[f"op{number}.t"] = tensor
    torch.save(numbered, tmp_path / "w.pt")

    with pytest.raises(InputError, match=r"weights_options\.order: true takes them so"):
        into_resnet(tmp_path / "w.pt")

    state, notes = into_resnet(tmp_path / "w.pt", order=True)
    assert notes == [f"{len(numbered)} tensors taken by their order, whatever their names"]
    for name, tensor in own.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(state[name], tensor), name


def test_by_order_the_first_shape_that_differs_is_named(tmp_path):
    own = build(RESNET, 5, (3, 32, 32), 1).state_dict()
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    order = [names[1], names[0], *names[2:]]
    swapped = {f"op{number}": own[name] for number, name in enumerate(order)}
    torch.save(swapped, tmp_path / "w.pt")

    with pytest.raises(InputError, match=r"stands where the network has conv1\.weight \(64, 3"):
        into_resnet(tmp_path / "w.pt", order=True)


@pytest.mark.parametrize("name", ["head", "linear", "fc"])
def test_a_fresh_head_is_given_on_request_whatever_the_file_calls_its_own(tmp_path, name):
    own = build(RESNET, 5, (3, 32, 32), 1).state_dict()
    other = {key.replace("fc.", f"{name}."): tensor for key, tensor in own.items()}
    other[f"{name}.weight"], other[f"{name}.bias"] = torch.ones(9, 512), torch.ones(9)
    torch.save(other, tmp_path / "w.pt")

    with pytest.raises(InputError, match=r"weights_options\.head: fresh gives a new fc"):
        into_resnet(tmp_path / "w.pt")

    state, notes = into_resnet(tmp_path / "w.pt", head="fresh")
    assert notes == [f"a fresh fc, without {name}.weight, {name}.bias of the file"]
    for key, tensor in own.items():
        if key.startswith("fc."):
            assert not state[key].any()
        else:
            assert torch.equal(state[key], tensor)


def test_counters_of_a_profiler_are_ignored_by_name(tmp_path, state):
    counted = dict(state)
    for name in ("conv1", "layer1.0"):
        counted |= {f"{name}.total_ops": torch.zeros(1), f"{name}.total_params": torch.zeros(1)}
    torch.save(counted, tmp_path / "w.pt")

    model = zeroed("resnet8", 10, DIGITS_SHAPE)
    notes = load_weights(model, "resnet8", tmp_path / "w.pt")
    assert equal(model.state_dict(), state)
    assert notes == ["4 counters ignored (total_ops, total_params)"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"epoch": 3, "log": ["a"]}, "its keys are epoch (int), log (list)"),
        ({"w": torch.ones(1), "epoch": 3}, "besides tensors it holds epoch (int)"),
        ({}, "holds no tensors"),
        ([torch.ones(1)], "but list"),
        (torch.ones(1), "but Tensor"),
    ],
)
def test_what_is_there_in_place_of_a_state_dict_is_named(tmp_path, content, named):
    torch.save(content, tmp_path / "w.pt")

    assert named in problem(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "a.b.c.", "module._orig_mod.", "layer1."]
)
def test_a_prefix_of_all_names_is_dropped(tmp_path, state, prefix):
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / "w.pt")

    assert equal(loaded(tmp_path / "w.pt"), state)
    notes = load_weights(trained("resnet8"), "resnet8", tmp_path / "w.pt")
    assert notes == [f"{prefix!r} dropped from its names"]


def test_what_is_beside_the_prefix_is_an_error_by_name(tmp_path, state):
    two = {f"student.{name}": tensor for name, tensor in state.items()}
    two["loss.weight"] = torch.ones(1)
    torch.save(two, tmp_path / "w.pt")

    assert "has loss.weight, which the network does not have" in problem(tmp_path / "w.pt")


def test_a_prefix_is_kept_if_names_would_meet(tmp_path, state):
    two = {f"model.{name}": tensor for name, tensor in state.items()}
    two["conv1.weight"] = state["conv1.weight"] + 1
    torch.save(two, tmp_path / "w.pt")

    assert "lacks bn1.weight" in problem(tmp_path / "w.pt")


def test_a_name_of_a_million_dots_takes_no_time(tmp_path, state):
    torch.save(state | {"a." * 1_000_000: torch.ones(1)}, tmp_path / "w.pt")

    assert "which the network does not have" in problem(tmp_path / "w.pt")


def test_of_two_prefixed_networks_none_is_chosen(tmp_path, state):
    two = {f"{who}.{name}": state[name] for who in ("teacher", "student") for name in state}
    torch.save(two, tmp_path / "w.pt")

    assert "which the network does not have" in problem(tmp_path / "w.pt")


# --- what is not tensors ---


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Fraction(1, 2), "fractions.Fraction"),
        (np.zeros(1), "numpy"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
def test_the_class_that_is_not_allowed_is_named(tmp_path, state, value, name, zipped):
    torch.save(
        {"state_dict": state, "args": value},
        tmp_path / "w.pt",
        _use_new_zipfile_serialization=zipped,
    )

    line = problem(tmp_path / "w.pt")
    assert f"of the class {name}" in line
    assert "torch.save(model.state_dict(), FILE)" in line


@pytest.mark.parametrize("name", ["w.pth", "w.SAFETENSORS", "w", "w.safetensors"])
@pytest.mark.parametrize("form", ["safetensors", "torch", "torch before 1.6"])
def test_the_content_says_what_a_file_is_and_not_its_name(tmp_path, state, name, form):
    match form:
        case "safetensors":
            safetensors.torch.save_file(state, tmp_path / name)
        case "torch":
            torch.save(state, tmp_path / name)
        case _:
            torch.save(state, tmp_path / name, _use_new_zipfile_serialization=False)

    assert equal(loaded(tmp_path / name), state)


def test_damaged_safetensors_are_not_taken_for_another_format(tmp_path, state):
    safetensors.torch.save_file(state, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:2000])

    assert "Safetensor" in problem(tmp_path / "w.pth")


def traced(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(trained("resnet8"), torch.zeros(1, *DIGITS_SHAPE)).save(str(path))


def exported(path: Path) -> None:
    example = torch.zeros(2, *DIGITS_SHAPE)
    torch.export.save(torch.export.export(trained("resnet8"), (example,)), path)


@pytest.mark.parametrize(
    ("write", "name"),
    [(traced, "TorchScript"), (exported, "torch.export")],
    ids=["TorchScript", "torch.export"],
)
@pytest.mark.filterwarnings("ignore")
def test_programs_of_torch_are_named_and_the_advice_gives_their_weights(
    tmp_path, state, write, name
):
    write(tmp_path / "w.pt2")

    line = problem(tmp_path / "w.pt2")
    assert name in line

    advice = re.search(r"torch\.save\(.*, FILE\)", line)[0]
    eval(advice, {"torch": torch, "FILE": tmp_path / "alone.pt"})
    assert equal(loaded(tmp_path / "alone.pt"), state)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (gzip.compress(b"w", mtime=0), "unpack it"),
        (b"hello", "no file of torch.save or safetensors"),
    ],
)
def test_files_of_other_formats_are_named(tmp_path, content, named):
    (tmp_path / "w.pth").write_bytes(content)

    assert named in problem(tmp_path / "w.pth")


def test_arrays_of_numpy_are_named(tmp_path):
    np.savez(tmp_path / "w.npz", first=np.ones(1))

    assert "that torch.save did not write: it holds first.npy" in problem(tmp_path / "w.npz")


# --- masks ---


def test_masks_of_torch_give_the_weights_that_torch_itself_makes_of_them(tmp_path):
    model = trained("resnet8")
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        torch_prune.random_unstructured(layer, "weight", amount=0.4)
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"net": wrapped}, tmp_path / "w.pt")

    for layer in layers:
        torch_prune.remove(layer, "weight")

    assert equal(loaded(tmp_path / "w.pt"), model.state_dict())
    notes = " ".join(read_weights(tmp_path / "w.pt").notes)
    assert f"masks of torch.nn.utils.prune applied ({len(layers)})" in notes


@pytest.mark.parametrize(
    "mask",
    [
        torch.full((16, 1, 3, 3), 0.5),
        torch.ones(16, 1, 3, 1),
        torch.full((16, 1, 3, 3), float("nan")),
        torch.ones(16, 1, 3, 3, dtype=torch.complex64),
        torch.ones(16, 1, 3, 3).to_sparse(),
        torch.ones(16, 1, 3, 3, device="meta"),
    ],
)
def test_a_mask_that_is_none_is_an_error_by_name(tmp_path, state, mask):
    state["conv1.weight_orig"] = state.pop("conv1.weight")
    state["conv1.weight_mask"] = mask
    torch.save(state, tmp_path / "w.pt")

    assert "conv1.weight_mask is not of zeros and ones" in problem(tmp_path / "w.pt")


def pruned_network(method: str) -> Network:
    model, spec = trained("resnet8"), prune_spec(method, 0.5)
    masks = prune(model, "resnet8", spec, shape=DIGITS_SHAPE, seed=0).masks
    return Network(model=model, card=CARD.model_copy(update={"pruning": spec}), masks=masks)


def test_a_masked_network_of_ours_is_a_start_with_its_zeros(tmp_path):
    network = pruned_network("l1_unstructured")
    save_network(tmp_path / "n.safetensors", network)

    tensors = loaded(tmp_path / "n.safetensors")

    assert equal(tensors, network.model.state_dict())
    weights = [tensors[name] for name in prunable_weights(network.model)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    assert zeros == pytest.approx(sum(weight.numel() for weight in weights) / 2, abs=1)


def test_a_thinner_network_of_ours_is_an_error_that_says_how_it_was_pruned(tmp_path):
    save_network(tmp_path / "n.safetensors", pruned_network("l1_channel"))

    line = problem(tmp_path / "n.safetensors")
    assert "It is a resnet8 from which l1_channel has removed 0.5; valid: the dense network" in line


def test_another_network_of_ours_is_named(tmp_path):
    save_network(tmp_path / "n.safetensors", Network(model=trained("resnet8"), card=CARD))

    assert "It is a resnet8" in problem(tmp_path / "n.safetensors", "resnet20")


@pytest.mark.parametrize("card", ["[]", "{", "1", '{"pruning": {}}', '{"model": []}'])
def test_any_metadata_is_read(tmp_path, state, card):
    safetensors.torch.save_file(state, tmp_path / "w", metadata={"prunelab": card})
    assert equal(loaded(tmp_path / "w"), state)
    problem(tmp_path / "w", "resnet20")


# --- other classes and other images ---


@pytest.mark.parametrize(
    ("name", "head"), [("resnet8", "linear"), ("vgg11_bn", "classifier"), ("resnet18", "fc")]
)
def test_a_head_for_other_classes_stays_fresh_if_it_is_trained(tmp_path, name, head):
    source = build(name, 7, DIGITS_SHAPE, 1).state_dict()
    torch.save(source, tmp_path / "w.pt")

    tensors = loaded(tmp_path / "w.pt", name, fresh_head=True)

    for key, tensor in tensors.items():
        if key.startswith(f"{head}."):
            assert not tensor.any()
        else:
            assert torch.equal(tensor, source[key])


def test_a_fresh_head_excuses_nothing_else(tmp_path):
    source = build("resnet8", 7, DIGITS_SHAPE).state_dict()
    torch.save(source | {"conv1.weight": torch.ones(16, 3, 3, 3)}, tmp_path / "a.pt")
    torch.save(source | {"linear.weight": torch.ones(7, 63)}, tmp_path / "b.pt")

    with pytest.raises(InputError, match=r"conv1.weight as \(16, 3, 3, 3\)"):
        loaded(tmp_path / "a.pt", fresh_head=True)
    with pytest.raises(InputError, match=r"linear.weight as \(7, 63\)"):
        loaded(tmp_path / "b.pt", fresh_head=True)


def test_check_refuses_other_classes_only_without_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    torch.save(build("resnet8", 7, DIGITS_SHAPE).state_dict(), tmp_path / "w.pt")
    edit_params(tmp_path / "params.yaml", weights="w.pt")

    assert find_problems() == []

    edit_params(tmp_path / "params.yaml", train__epochs=0)
    (line,) = find_problems()
    assert "It is for 7 classes, and the data have 10: with train.epochs of 1 or more" in line


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("rename", {"a": 1}, "weights_options.rename.a: must be a valid string, not 1"),
        ("rename", ["a"], "weights_options.rename: must be a valid dictionary, not ['a']"),
        ("head", "new", "weights_options.head: must be 'auto' or 'fresh', not 'new'"),
        ("ema", "yes", "weights_options.ema: must be a valid boolean, not 'yes'"),
        ("order", 1, "weights_options.order: must be a valid boolean, not 1"),
        ("ordered", True, "weights_options.ordered: unknown key (did you mean 'order'?)"),
    ],
)
def test_check_names_an_option_of_weights_that_cannot_be(tmp_path, monkeypatch, key, value, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    edit_params(tmp_path / "params.yaml", **{f"weights_options__{key}": value})

    (problem,) = find_problems()
    assert problem.removeprefix("params.yaml: ").startswith(line)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sorted": 1}, "model_options: resnet8 cannot be built with the options sorted; valid: "),
        ({"stem": True}, "model_options.stem: True is no number and no text"),
        ({"depth": -1}, "model_options.depth: -1 is out of range"),
        ({"stem": ""}, "model_options.stem: a text of 1 to 200 characters is valid"),
        ("small", "model_options: must be a valid dictionary"),
    ],
)
def test_check_names_an_option_of_a_network_that_cannot_be(tmp_path, monkeypatch, options, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    edit_params(tmp_path / "params.yaml", model_options=options)

    assert {problem.removeprefix("params.yaml: ")[: len(line)] for problem in find_problems()} == {
        line
    }


@pytest.mark.parametrize(
    ("name", "shape", "side"),
    [
        ("resnet18", (3, 32, 32), 224),
        ("resnet18", (3, 224, 224), 32),
        ("densenet121", (3, 32, 32), 224),
        pytest.param("vit_b_16", (3, 32, 32), 224, marks=pytest.mark.slow),
    ],
)
def test_weights_for_other_images_name_the_size_that_fits(tmp_path, name, shape, side):
    source = build_on_meta(name, 7, (3, side, side)).to_empty(device="cpu")
    for tensor in source.state_dict().values():
        tensor.zero_()
    torch.save(source.state_dict(), tmp_path / "w.pt")

    with pytest.raises(InputError) as error:
        load_weights(zeroed(name, 10, shape), name, tmp_path / "w.pt", fresh_head=True)

    advised = re.search(r"set data.resize: (\d+)", str(error.value))
    fitting = zeroed(name, 10, (3, int(advised[1]), int(advised[1])))
    load_weights(fitting, name, tmp_path / "w.pt", fresh_head=True)
    assert int(advised[1]) == side


def test_weights_for_other_channels_say_so(tmp_path):
    torch.save(build("resnet18", 10, (3, 8, 8)).state_dict(), tmp_path / "w.pt")

    line = problem(tmp_path / "w.pt", "resnet18")
    assert "It is for images of 3 channels, and these have 1" in line
    assert "data.resize" not in line


def test_weights_of_another_network_name_no_size(tmp_path):
    torch.save(build("resnet20", 10, DIGITS_SHAPE).state_dict(), tmp_path / "w.pt")

    assert "data.resize" not in problem(tmp_path / "w.pt")
