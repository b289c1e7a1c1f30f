"""Portable bits: libraries that obey or refuse, exact roots, and what is left as it was."""

import ast
import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.params import PROJECT, runtime_params

from prunelab.core.errors import InputError
from prunelab.runtime import exact
from prunelab.runtime.device import configure, decisive, fingerprint
from prunelab.runtime.portable import VARIABLES

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="only x86-64 has portable bits"
)

COMPUTE = """
import hashlib, json, os, sys
import torch
import torch.nn.functional as F
from helpers.params import runtime_params
from prunelab.core.errors import InputError
from prunelab.runtime.device import configure, fingerprint

def digest():
    random = torch.Generator().manual_seed(0)
    images = torch.randn(8, 16, 16, 16, generator=random)
    kernels = torch.randn(32, 16, 3, 3, generator=random)
    outputs = F.conv2d(images, kernels).flatten(1)
    results = (outputs, outputs @ outputs.T, outputs.tanh(), outputs.sum())
    return hashlib.sha256(b"".join(each.numpy().tobytes() for each in results)).hexdigest()

def report(bits, when):
    variables = dict(os.environ)
    if when == "late":
        digest()
    try:
        execution = configure(runtime_params(bits=bits))
    except InputError as error:
        return {"refusal": error.problems}
    capability = fingerprint(execution)["cpu_capability"]
    return {"digest": digest(), "untouched": variables == dict(os.environ),
            "portable": execution.portable, "capability": capability}

# Nothing has been computed yet, so every fork chooses its bits. Importing torch takes longer.
for words in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        print(json.dumps(report(*words.split())), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def computed(*cases: str, **variables: str) -> list[dict]:
    """What processes of their own compute and say of themselves: their bits and when, by case."""
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    process = subprocess.run(
        [sys.executable, "-c", COMPUTE, *cases],
        env=environment | {"PYTHONPATH": paths} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    """What processes compute that were started without the variables of portable bits."""
    cases = ("portable first", "portable late", "native first")
    return dict(zip(cases, computed(*cases), strict=True))


def test_pinned_process_computes_what_one_does_that_was_started_so(results):
    pinned = results["portable first"]
    assert pinned["portable"]
    assert pinned["capability"] == "AVX2"
    assert pinned["untouched"]
    (started_so,) = computed("native first", **VARIABLES)
    assert pinned["digest"] == started_so["digest"]


def test_portable_bits_are_refused_in_a_process_that_has_computed(results):
    # MKL has bits of its own on every processor, unlike those that AVX-512 alone changes.
    (refusal,) = results["portable late"]["refusal"]
    assert "MKL" in refusal
    assert "start it again, or set runtime.bits to native" in refusal


@pytest.mark.parametrize(
    ("library", "variables"),
    [
        ("NumPy", {"NPY_DISABLE_CPU_FEATURES": "X86_V3"}),  # no AVX2
        ("OpenBLAS", {"OPENBLAS_CORETYPE": "Nehalem"}),
        ("OpenBLAS", {"OPENBLAS_NUM_THREADS": "2"}),
    ],
)
def test_portable_bits_are_refused_if_numpy_was_loaded_otherwise(library, variables):
    portable, native = computed("portable first", "native first", **variables)

    (refusal,) = portable["refusal"]
    assert f"{library} was loaded before" in refusal
    assert native["digest"]


def test_portable_bits_are_refused_if_numpy_has_its_code_for_avx512():
    # The first computation of NumPy decides nothing: it has chosen when it was loaded.
    variables = {"NPY_DISABLE_CPU_FEATURES": ""}
    code = "from prunelab.runtime import portable; print(portable._numpy_obeys())"
    obeys = subprocess.check_output([sys.executable, "-c", code], env=os.environ | variables)
    if obeys.strip() == b"True":
        pytest.skip("this processor has no AVX-512")

    (portable,) = computed("portable first", **variables)

    (refusal,) = portable["refusal"]
    assert "NumPy was loaded before" in refusal


def test_native_bits_hold_nothing(results):
    native = results["native first"]
    assert not native["portable"]
    assert native["untouched"]


def test_bits_are_part_of_the_fingerprint():
    portable = fingerprint(configure(runtime_params()))
    native = fingerprint(configure(runtime_params(bits="native")))
    assert portable["bits"] == "portable"
    assert native["bits"] == "native"


def test_portable_bits_do_not_depend_on_the_processor_but_native_ones_do():
    environment = fingerprint(configure(runtime_params()))
    elsewhere = {"device": "Another CPU", "cpu_capability": "DEFAULT", "python": "3.99"}
    assert decisive(environment) == decisive(environment | elsewhere)
    assert decisive(environment) != decisive(environment | {"precision": "bf16"})

    native = environment | {"bits": "native"}
    assert decisive(native) != decisive(native | elsewhere)
    on_gpu = environment | {"cuda": "13.0"}
    assert decisive(on_gpu) != decisive(on_gpu | {"device": "Another GPU"})


def test_other_processors_than_x86_64_compute_natively(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    execution = configure(runtime_params())
    assert not execution.portable
    assert fingerprint(execution)["bits"] == "native"


def test_bf16_is_chosen_for_native_bits_alone(monkeypatch):
    monkeypatch.setattr("prunelab.runtime.device.has_fast_bf16", lambda device: True)
    assert configure(runtime_params(precision="auto")).autocast_dtype is None
    native = runtime_params(precision="auto", bits="native")
    assert configure(native).autocast_dtype == torch.bfloat16
    with pytest.raises(InputError, match="bf16 has no portable bits on a CPU"):
        configure(runtime_params(precision="bf16"))


def test_equals_keep_their_order_wherever_something_is_ordered():
    """Otherwise their order is that of vectors, as wide as the processor has them."""
    found = 0
    for path in sorted((PROJECT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("argsort"):
                settings = [ast.unparse(keyword) for keyword in node.keywords]
                assert {"kind='stable'", "stable=True"} & set(settings), f"{path}:{node.lineno}"
                found += 1
    assert found > 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_root_is_the_nearest_number(dtype):
    values = torch.rand(20_001, dtype=dtype) * 100
    root = exact.sqrt(values)

    wide = np.sqrt(values.numpy().astype(np.longdouble))
    error = np.abs(root.numpy().astype(np.longdouble) - wide)
    for direction in (torch.tensor(-1.0), torch.tensor(1e9)):
        neighbour = torch.nextafter(root, direction.to(dtype)).numpy().astype(np.longdouble)
        assert (error <= np.abs(neighbour - wide)).all()


def test_exact_root_keeps_the_layout_and_the_input_and_takes_scalars():
    values = torch.rand(6, 5).T
    copy = values.clone()
    assert exact.sqrt(values).stride() == values.stride()
    assert torch.equal(values, copy)
    assert exact.sqrt(torch.tensor(4.0)) == 2


def test_gradient_of_the_exact_root_is_right():
    values = (torch.rand(30, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(exact.sqrt, (values,))


@pytest.mark.parametrize("count", [3, 60])
def test_distances_are_those_of_the_differences(count):
    points = torch.randn(count, 70, dtype=torch.float64)
    expected = (points[:, None] - points[None]).square().sum(-1).sqrt()
    torch.testing.assert_close(exact.distances(points), expected)
