"""What the processor has, as the system describes it."""

import platform

import pytest

from prunelab.core import processor


@pytest.mark.parametrize(
    ("machine", "description", "is_without"),
    [
        ("x86_64", "processor\t: 0\nflags\t\t: fpu avx avx2 bmi1\n", False),
        ("x86_64", "processor\t: 0\nflags\t\t: fpu avx avx512f\n", True),
        ("x86_64", "processor\t: 0\n", False),
        ("aarch64", "processor\t: 0\nFeatures\t: fp asimd\n", False),
    ],
)
def test_a_processor_without_avx2_is_recognised(
    tmp_path, monkeypatch, machine, description, is_without
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert not processor.is_without_avx2()  # the system does not say
    (tmp_path / "cpuinfo").write_text(description)
    assert processor.is_without_avx2() == is_without
