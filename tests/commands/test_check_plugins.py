"""`prunelab check` on broken plugins: one line each, with the file, the line and what to do."""

from pathlib import Path

import pytest
from helpers.params import PROJECT
from helpers.plugins import (
    AUGMENTATION,
    CRITERION,
    DATASET,
    LR_SCHEDULE,
    METHOD,
    METRIC,
    NETWORK,
    line_of,
    write_plugins,
)

from prunelab.commands.check import plugins as plugin_checks
from prunelab.commands.check import verdicts
from prunelab.commands.check.check import find_problems
from prunelab.core import plugins
from prunelab.data.dataset import DataInfo
from prunelab.models.probe import check_network

DIGITS = DataInfo(10, (1, 8, 8))
WHOLE = {"net": NETWORK, "rule": CRITERION, "methods": METHOD, "data": DATASET}
WHOLE |= {"images": AUGMENTATION, "measures": METRIC, "rate": LR_SCHEDULE}


def network(body: str, head: str = "1") -> str:
    """A plugin whose network has this class body, after its layers."""
    return f"""
import torch
from torch import nn

from prunelab.models.catalogue import MODELS, Architecture


class Net(nn.Module):
    def __init__(self, classes, shape):
        super().__init__()
        self.calls = 0
        self.classes = classes
        self.layer = nn.Linear(64, classes)

{body}

MODELS.register("tiny", Architecture("plugins.net:Net", head="{head}"))
"""


def forward(*lines: str) -> str:
    body = "".join(f"        {line}\n" for line in lines)
    return network(f"    def forward(self, inputs):\n{body}", head="layer")


def test_plugins_in_order_are_checked_once(project):
    write_plugins(project, **WHOLE)
    assert plugin_checks.find_problems(DIGITS) == []
    assert len(verdicts.FILE.read_text().splitlines()) == 1

    plugins.forget()
    assert plugin_checks.find_problems(DIGITS) == []
    assert plugins.current().failures == {}
    assert len(verdicts.FILE.read_text().splitlines()) == 1


def test_an_edit_of_any_plugin_has_all_checked_again(project):
    write_plugins(project, **WHOLE)
    before = verdicts.verdict("plugins")

    write_plugins(project, **WHOLE | {"rule": CRITERION + "\nA = 1\n"})

    assert verdicts.verdict("plugins") != before


SCORES = CRITERION.rstrip().rpartition("\n")[2]
NETWORKS = {
    "logits of a wrong shape": (
        forward("return self.layer(inputs.flatten(1))[:, 1:]"),
        "MODELS.register",
        "network tiny returns logits of shape (2, 9); return (2, 10)",
    ),
    "no tensor": (
        forward("return {'logits': self.layer(inputs.flatten(1))}"),
        "MODELS.register",
        "network tiny does not return one tensor of floats; return the logits",
    ),
    "another shape at every call": (
        forward(
            "self.calls += 1",
            "return self.layer(inputs.flatten(1))[:, : 11 - self.calls]",
        ),
        "MODELS.register",
        "network tiny changes the shape of its logits between calls, from (2, 10) to (2, 9); "
        "return (batch, 10) every time",
    ),
    "a batch that is lost": (
        forward("return self.layer(inputs.flatten(1))[:2]"),
        "MODELS.register",
        "network tiny changes the shape of its logits between calls, from (2, 10) to (2, 10); ",
    ),
    "random numbers of torch": (
        forward("return self.layer(nn.functional.dropout(inputs.flatten(1), training=True))"),
        "MODELS.register",
        "network tiny draws random numbers in evaluation mode; draw them `if self.training`",
    ),
    "random numbers of another library": (
        forward("import random", "return self.layer(inputs.flatten(1)) + random.random()"),
        "MODELS.register",
        "network tiny draws random numbers in evaluation mode; draw them `if self.training`",
    ),
    "no layer to prune": (
        network(
            "        self.layer = nn.Bilinear(64, 64, classes)\n\n"
            "    def forward(self, inputs):\n"
            "        return self.layer(inputs.flatten(1), inputs.flatten(1))\n",
            head="layer",
        ),
        "MODELS.register",
        "network tiny has no prunable layer; use nn.Conv2d, nn.Linear or nn.MultiheadAttention",
    ),
    "a head of another name": (
        network("    forward = None\n", head="fc"),
        "MODELS.register",
        "network tiny has no layer 'fc'; let `head` name its last layer",
    ),
    "a pass that fails": (
        forward("inputs = inputs.flatten(1)", "raise ValueError('no, thanks')"),
        "raise ValueError",
        "ValueError: no, thanks; correct it, or move the file out of plugins/",
    ),
    "a pass that torch refuses": (
        forward("return self.layer(inputs)"),
        "return self.layer",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    "a path that depends on the inputs": (
        forward(
            "if inputs.sum() > 1e9:", "    inputs = -inputs", "return self.layer(inputs.flatten(1))"
        ),
        "MODELS.register",
        "network tiny decides by the values of its inputs at plugins/net.py:16; pruning sees one "
        "pass alone, so let the same layers run for all inputs",
    ),
    "a path that NumPy decides": (
        forward(
            "if inputs.detach().numpy().sum() > 1e9:",
            "    inputs = -inputs",
            "return self.layer(inputs.flatten(1))",
        ),
        "MODELS.register",
        "network tiny decides by the values of its inputs at plugins/net.py:16; pruning sees one "
        "pass alone, so let the same layers run for all inputs",
    ),
    "the end of the program": (
        forward("raise SystemExit(3)"),
        "raise SystemExit",
        "SystemExit: 3; correct it, or move the file out of plugins/",
    ),
    "other inputs afterwards": (
        forward("return self.layer(inputs.mul_(2).flatten(1))"),
        "MODELS.register",
        "network tiny changes its inputs; let it work on a copy",
    ),
    "other weights afterwards": (
        forward(
            "with torch.no_grad():",
            "    self.layer.bias.add_(1)",
            "return self.layer(inputs.flatten(1))",
        ),
        "MODELS.register",
        "network tiny changes layer.bias in evaluation mode; change it `if self.training`",
    ),
    "no gradient": (
        forward("return self.layer(inputs.flatten(1)).detach()"),
        "MODELS.register",
        "network tiny returns logits without a gradient, by which nothing can be trained",
    ),
    "no numbers": (
        forward("return self.layer(inputs.flatten(1)) / 0"),
        "MODELS.register",
        "network tiny returns logits that are not finite for standard normal inputs",
    ),
    "examples that see each other": (
        forward("inputs = inputs.flatten(1)", "return self.layer(inputs - inputs.mean(0))"),
        "MODELS.register",
        "network tiny returns other logits for an example if the batch holds other examples",
    ),
    "initial weights that no seed decides": (
        network(
            "        with torch.no_grad():\n"
            "            self.layer.bias.copy_(torch.full((classes,), COUNT() + 1.0))\n\n"
            "    def forward(self, inputs):\n"
            "        return self.layer(inputs.flatten(1))\n",
            head="layer",
        ).replace("class Net", "COUNT = iter(range(99)).__next__\n\n\nclass Net"),
        "MODELS.register",
        "network tiny has another layer.bias when it is built again; draw initial weights by torch",
    ),
    "other arguments": (
        NETWORK.replace("tiny(classes, shape)", "tiny(classes, shape, depth)"),
        "MODELS.register",
        "tiny cannot be built with the options {}: missing a required argument: 'depth'",
    ),
    "no such function": (
        NETWORK.replace("plugins.net:tiny", "plugins.net:large"),
        "MODELS.register",
        "tiny is to be built by 'plugins.net:large': module 'plugins.net' has no attribute",
    ),
    "no network": (
        NETWORK.replace("return nn.Sequential", "return None and nn.Sequential"),
        "MODELS.register",
        "network tiny is a NoneType; return a torch.nn.Module",
    ),
    "an entry that is a function": (
        NETWORK.replace('Architecture("plugins.net:tiny", head="1")', "tiny"),
        "MODELS.register",
        "model 'tiny' is a function, not a Architecture",
    ),
}


def assert_refused_by_its_line(project: Path, file: str, text: str, place: str, expected: str):
    """A plugin of that text has one problem, at the line of `place`, that begins as expected."""
    write_plugins(project, **{file: text})

    (line,) = plugin_checks.find_problems(DIGITS)

    assert line.startswith(f"plugins/{file}.py:{line_of(text, place)}: {expected}")


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_that_breaks_a_rule_is_refused_by_its_line(project, case):
    assert_refused_by_its_line(project, "net", *NETWORKS[case])
    assert not verdicts.FILE.exists()


def rule(*lines: str, arguments: str = "model, calibration") -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return CRITERION.replace("model, calibration", arguments).replace(f"{SCORES}\n", body)


OTHERS = {
    "too few arguments": (
        rule("return {}", arguments="model"),
        "@CRITERIA",
        "criterion 'squared' cannot be called with (model, calibration): too many positional "
        "arguments; let it take (model, calibration)",
    ),
    "no scores": (rule("return {}"), "@CRITERIA", "criterion squared scores no layer; "),
    "no dictionary": (rule("return []"), "@CRITERIA", "criterion squared returns a list; "),
    "a score per layer": (
        rule("return {name: weight.sum() for name, weight in prunable_weights(model).items()}"),
        "@CRITERIA",
        "criterion squared scores conv1.weight in shape (); return (16, 1, 3, 3)",
    ),
    "scores of nothing": (
        rule("return {'nothing': 1}"),
        "@CRITERIA",
        "criterion squared scores 'nothing', which is no prunable weight; ",
    ),
    "scores that are no numbers": (
        rule("return {name: w.detach() / 0 for name, w in prunable_weights(model).items()}"),
        "@CRITERIA",
        "criterion squared scores conv1.weight by numbers that are not finite",
    ),
    "a network that is changed": (
        rule("return {k: w.data.mul_(2) for k, w in prunable_weights(model).items()}"),
        "@CRITERIA",
        "criterion squared changes the network; work on copies of its tensors",
    ),
    "an error": (rule("return 1 / 0"), "return 1 / 0", "ZeroDivisionError: division by zero; "),
    "a part that does not exist": (
        METHOD.replace('"uniform"', '"unifor"') + CRITERION,
        "squared_channel",
        "method squared_channel: unknown scope of channel 'unifor' (did you mean 'uniform'?)",
    ),
    "a criterion that does not exist": (
        METHOD.replace('"squared", "channel"', '"cubed", "channel"') + CRITERION,
        "squared_channel",
        "method squared_channel: unknown criterion 'cubed'",
    ),
    "a data set without a function": (
        DATASET.replace("def digest", "def digit"),
        "@DATASETS",
        "data set dots has no function digest; prunelab.data.dataset.Dataset lists them",
    ),
    "a data set that takes nothing": (
        DATASET.replace("__init__(self, config)", "__init__(self)"),
        "@DATASETS",
        "dataset 'dots' cannot be called with (config): too many positional arguments; ",
    ),
    "images of another shape": (
        AUGMENTATION.replace("images * random[:, :1, None, None]", "images[:, :, 1:]"),
        "@AUGMENTATIONS",
        "augmentation darker returns a Tensor of shape (4, 1, 7, 9); return float32 images of "
        "shape (4, 1, 8, 9)",
    ),
    "images that are changed in place": (
        AUGMENTATION.replace("images * random", "images.mul_(0.5) * random"),
        "@AUGMENTATIONS",
        "augmentation darker changes its inputs; work on a copy of the images",
    ),
    "random numbers of an augmentation's own": (
        AUGMENTATION.replace("random[:, :1, None, None]", "images.new_empty(1).uniform_()"),
        "@AUGMENTATIONS",
        "augmentation darker draws random numbers of its own; use those in its second argument",
    ),
    "images that are mixed": (
        AUGMENTATION.replace("random[:, :1, None, None]", "images.mean()"),
        "@AUGMENTATIONS",
        "augmentation darker changes an image by the others in its batch; treat each image by",
    ),
    "a metric that is no number": (
        METRIC.replace("float((predictions.classes == labels).mean())", "None"),
        "@METRICS",
        "metric share returns None; return one finite number",
    ),
    "a metric that changes the labels": (
        METRIC.replace("    return", "    labels[:] = 0\n    return"),
        "@METRICS",
        "metric share changes its inputs; work on copies of the arrays",
    ),
    "a metric that raises": (
        METRIC.replace("float((", "1 / 0 + float(("),
        "1 / 0",
        "ZeroDivisionError: division by zero; correct it, or move the file out of plugins/",
    ),
    "a learning rate below 0": (
        LR_SCHEDULE.replace("(1 - progress) ** 2", "(0.5, -1)[progress >= 0.5]"),
        "@LR_SCHEDULES",
        "lr_schedule square returns -1 at progress 0.5; return a number of 0 or more",
    ),
    "a learning rate that no step decides": (
        LR_SCHEDULE.replace("(1 - progress) ** 2", "COUNT() + 1").replace(
            "@LR", "COUNT = iter(range(9999)).__next__\n\n\n@LR"
        ),
        "@LR_SCHEDULES",
        "lr_schedule square returns another factor when it is asked again; let it depend on",
    ),
    "a learning rate of 0": (
        LR_SCHEDULE.replace("(1 - progress) ** 2", "0"),
        "@LR_SCHEDULES",
        "lr_schedule square is 0 at every step; return the factor of the learning rate",
    ),
    "a schedule of other arguments": (
        LR_SCHEDULE.replace("recipe, progress", "progress"),
        "@LR_SCHEDULES",
        "lr_schedule 'square' cannot be called with (recipe, progress): too many positional",
    ),
    "a name that is registered twice": (
        METRIC + '\nMETRICS.register("share", share)\n',
        ", share)",
        "metric 'share' is registered already, in plugins/mine.py:5; choose another name",
    ),
    "a name of this package": (
        METHOD.replace("squared_channel", "l1_channel"),
        "l1_channel",
        "method 'l1_channel' is registered already, in prunelab; choose another name",
    ),
    "a file that cannot be read": (
        "def f(:\n",
        "def f",
        "SyntaxError: invalid syntax; correct it, or move the file out of plugins/",
    ),
    "an import that fails": (
        "import nowhere_at_all\n",
        "import",
        "ModuleNotFoundError: No module named 'nowhere_at_all'; correct it, or move the file out",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_any_other_entry_that_breaks_a_rule_is_refused_by_its_line(project, case):
    assert_refused_by_its_line(project, "mine", *OTHERS[case])


def test_every_broken_plugin_is_named_at_once(project):
    write_plugins(project, net=NETWORKS["no network"][0], rule=OTHERS["no scores"][0])

    lines = plugin_checks.find_problems(DIGITS)

    assert [line.partition(":")[0] for line in lines] == ["plugins/net.py", "plugins/rule.py"]


@pytest.mark.parametrize(
    "value",
    [
        "float(inputs.sum())",
        "inputs.max().item()",
        "sum(inputs.flatten().tolist())",
        "inputs.numpy().sum()",
        "len(inputs[inputs > 0])",
        "len(torch.where(inputs > 0)[0])",
        "len(inputs.nonzero())",
        "torch.equal(inputs, inputs)",
        "math.sqrt(self.layer(inputs.flatten(1)).abs().sum())",
    ],
)
def test_a_network_that_looks_at_values_is_refused_however_it_does(project, value):
    lines = [f"if {value} > 1e9:", "    inputs = -inputs", "return self.layer(inputs.flatten(1))"]
    write_plugins(project, net=f"import math\n{forward(*lines)}")

    (line,) = plugin_checks.find_problems(DIGITS)

    assert "network tiny decides by the values of its inputs at plugins/net.py:17" in line


@pytest.mark.parametrize(
    "line",
    [
        "inputs = inputs.clamp(min=0)[:, [0]]",
        "inputs = torch.where(inputs > 0, inputs, -inputs)",
        "inputs = inputs * (inputs > 0) + torch.linspace(0, 1, 8)[3].item()",
        "assert len(inputs) == inputs.shape[0] and inputs.is_floating_point()",
    ],
)
def test_a_network_may_compute_with_values_and_look_at_shapes(project, line):
    write_plugins(project, net=forward(line, "return self.layer(inputs.flatten(1))"))

    assert plugin_checks.find_problems(DIGITS) == []


NETWORKS_FOR_LARGE_IMAGES = NETWORK.replace(
    "nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes)",
    "nn.MaxPool2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], classes)",
).replace('head="1"', 'head="3"')


def test_networks_of_the_package_pass_the_probe_unseen():
    check_network("resnet8", 10, (0,))  # for which it cannot be built


def test_a_study_is_refused_because_of_a_plugin_before_any_work(project):
    text = (PROJECT / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("model: resnet8", "model: tiny"))
    write_plugins(project, net=NETWORKS["logits of a wrong shape"][0])

    lines = find_problems()

    assert "network tiny returns logits of shape (2, 9)" in lines[0]


def test_the_network_of_the_study_must_take_the_inputs_of_the_study(project):
    (project / "plugins/net.py").write_text(NETWORKS_FOR_LARGE_IMAGES)

    assert plugin_checks.find_problems(DIGITS, "resnet8") == []
    (line,) = plugin_checks.find_problems(DIGITS, "tiny")
    assert line.startswith(
        "plugins/net.py:11: network tiny fails on inputs (1, 8, 8): RuntimeError"
    )
