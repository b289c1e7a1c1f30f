"""Model files name the plugins that made them, and are read with the same plugins alone."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.networks import CARD, DIGITS_SHAPE, UNSCALED_CARD
from helpers.plugins import CRITERION, METHOD, NETWORK, write_plugins

from prunelab.artifacts.networks import (
    Network,
    load_network,
    plugins_of,
    save_network,
)
from prunelab.artifacts.tensors import save_tensors
from prunelab.core import plugins
from prunelab.core.errors import InputError
from prunelab.models.networks import build


def save_tiny(folder: Path) -> Path:
    path = folder / "tiny.safetensors"
    card = UNSCALED_CARD.model_copy(update={"model": "tiny", "plugins": plugins_of(model="tiny")})
    save_network(path, Network(model=build("tiny", 10, DIGITS_SHAPE), card=card))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load_network(path)
    (line,) = error.value.problems
    return line


def test_a_network_of_a_plugin_comes_back_with_the_same_bits(project):
    write_plugins(project, net=NETWORK)
    path = save_tiny(project)

    network = load_network(path)

    inputs = torch.randn(3, *DIGITS_SHAPE)
    assert torch.equal(network.model(inputs), build("tiny", 10, DIGITS_SHAPE)(inputs))
    file, code_hash = network.card.plugins["model"]
    assert file == "plugins/net.py"
    assert code_hash == plugins.code_hash(plugins.current().registrations["model", "tiny"])


def test_a_network_that_cannot_flatten_a_batch_of_none_comes_back(project):
    flatten = """class Flatten(nn.Module):
    def forward(self, inputs):
        return inputs.view(inputs.size(0), -1)


def tiny"""
    text = NETWORK.replace("def tiny", flatten).replace("nn.Flatten()", "Flatten()")
    write_plugins(project, net=text)
    with pytest.raises(RuntimeError):
        build("tiny", 10, DIGITS_SHAPE)(torch.zeros(0, *DIGITS_SHAPE))

    assert load_network(save_tiny(project)).card.model == "tiny"


def test_all_plugins_that_made_a_network_are_named(project):
    write_plugins(project, net=NETWORK, rule=CRITERION, methods=METHOD)

    named = plugins_of(model="tiny", method="squared_channel", criterion="squared", schedule="soft")

    assert {kind: file for kind, (file, _) in named.items()} == {
        "model": "plugins/net.py",
        "method": "plugins/methods.py",
        "criterion": "plugins/rule.py",
    }
    assert len({code_hash for _, code_hash in named.values()}) == 3


def test_a_card_without_plugins_does_not_mention_them():
    assert "plugins" not in json.loads(CARD.text())
    assert plugins_of(model="resnet8", method="l1_channel") == {}


def test_a_file_of_a_plugin_that_is_not_here_is_refused_and_nothing_is_imported(project):
    write_plugins(project, net=NETWORK)
    path = save_tiny(project)
    (project / "plugins/net.py").write_text("raise SystemExit('imported')\n")
    plugins.forget()

    assert "holds a tiny of plugins/net.py, but no plugin here registers that name" in refusal(path)
    assert "plugins.net" not in sys.modules


def test_a_file_of_another_version_of_the_plugin_is_refused(project, monkeypatch):
    write_plugins(project, net=NETWORK)
    path = save_tiny(project)

    edited = project / "edited"
    edited.mkdir()
    write_plugins(edited, net=NETWORK.replace("nn.Flatten()", "nn.Flatten(1)"))
    monkeypatch.chdir(edited)

    line = refusal(path)
    assert "holds a tiny of another version of plugins/net.py; `dvc repro` makes it anew" in line


def test_a_file_that_is_renamed_with_a_comment_is_the_same_plugin(project, monkeypatch):
    write_plugins(project, net=NETWORK)
    path = save_tiny(project)

    moved = project / "moved"
    moved.mkdir()
    write_plugins(moved, net=f"# Mine.\n{NETWORK}")
    monkeypatch.chdir(moved)

    assert load_network(path).card.model == "tiny"


@pytest.mark.parametrize(
    "made_by",
    [
        {},
        {"model": ("os.py", "0" * 64)},
        {"model": ("/etc/passwd", "")},
        {"method": ("plugins/net.py", "0" * 64)},
    ],
)
def test_what_a_file_names_is_never_imported(project, made_by):
    (project / "plugins/net.py").write_text("raise SystemExit('imported')\n")
    card = UNSCALED_CARD.model_copy(update={"model": "resnet8", "plugins": made_by})
    path = project / "net.safetensors"
    state = build("resnet8", 10, DIGITS_SHAPE).state_dict()
    save_tensors(path, state, card.model_dump(mode="json"))

    if "model" in made_by:
        assert "no plugin here registers that name" in refusal(path)
    else:
        assert load_network(path).card.plugins == made_by
    assert "plugins.net" not in sys.modules


@pytest.mark.parametrize("value", ["plugins", {"model": "plugins/net.py"}, {"model": ["a"]}, None])
def test_a_card_whose_plugins_are_malformed_is_refused(tmp_path, value):
    path = tmp_path / "net.safetensors"
    metadata = UNSCALED_CARD.model_dump(mode="json") | {"plugins": value}
    save_tensors(path, build("resnet8", 10, DIGITS_SHAPE).state_dict(), metadata)

    assert "has a card that cannot be used: plugins" in refusal(path)
