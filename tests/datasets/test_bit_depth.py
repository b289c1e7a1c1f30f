"""Images of 16 bits that use fewer: their levels are kept, and what was measured is recorded."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.data import write_image_folder
from helpers.params import PROJECT, edit_params
from PIL import Image

from prunelab.artifacts.prepared import load_split
from prunelab.core.files import read_json
from prunelab.data.dataset import DataConfig
from prunelab.datasets import bit_depth
from prunelab.datasets.bit_depth import BitDepth
from prunelab.datasets.imagefolder import ImageFolder
from prunelab.datasets.images import decode
from prunelab.stages import prepare


def write_grey(path: Path, pixels: np.ndarray) -> None:
    """A PNG file of 16-bit grey [H, W]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint16)).save(path)


def write_deep_png(path: Path, pixels: np.ndarray) -> None:
    """A PNG file with 16 bits a channel [H, W, C], which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    height, width, channels = pixels.shape
    colour_type = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def ramp(top: int) -> np.ndarray:
    """Grey [16, 16] that rises evenly from 0 to `top`."""
    return np.linspace(0, top, 256).astype(int).reshape(16, 16)


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_keeps_256_levels_whatever_bits_it_uses(tmp_path, bits, ending):
    path = tmp_path / f"x.{ending}"
    write_grey(path, ramp(2**bits - 1))

    depth = BitDepth([str(path)])
    decoded = decode(str(path), None, depth)

    assert depth.used("grey") == bits
    np.testing.assert_array_equal(decoded[0].ravel(), np.arange(256))
    assert depth.record() == ({} if bits == 16 else {"grey_bits": bits})


def test_values_of_less_than_8_bits_stay_as_they_are(tmp_path):
    write_grey(tmp_path / "x.png", ramp(15))

    decoded = decode(str(tmp_path / "x.png"), None, BitDepth([str(tmp_path / "x.png")]))

    np.testing.assert_array_equal(decoded[0], ramp(15))


def test_the_bits_are_those_of_the_brightest_training_image(tmp_path, monkeypatch):
    monkeypatch.setattr(bit_depth, "CHUNK_FILES", 3)
    paths = []
    for index, top in enumerate([100, 100, 100, 100, 100, 100, 4095, 100]):
        paths.append(tmp_path / f"{index}.png")
        write_grey(paths[-1], ramp(top))
    paths.append(tmp_path / "damaged.png")
    paths[-1].write_bytes(paths[0].read_bytes()[:60])
    Image.new("L", (16, 16), 255).save(tmp_path / "plain.png")

    depth = BitDepth([*map(str, paths), str(tmp_path / "plain.png"), str(tmp_path / "absent.png")])

    assert depth.used("grey") == 12


def test_without_a_grey_training_image_all_16_bits_are_scaled(tmp_path):
    Image.new("L", (16, 16), 255).save(tmp_path / "plain.png")
    write_grey(tmp_path / "grey.png", ramp(65535))
    depth = BitDepth([str(tmp_path / "plain.png")])

    decoded = decode(str(tmp_path / "grey.png"), None, depth)

    np.testing.assert_array_equal(decoded[0].ravel(), np.arange(256))
    assert depth.record() == {}


def test_plain_images_are_not_read_for_their_bits(tmp_path, monkeypatch):
    write_image_folder(tmp_path, {"cat": 3})
    monkeypatch.setattr(bit_depth, "maximum_of", lambda *_: pytest.fail("an image was read"))
    path = str(tmp_path / "cat/000.png")
    depth = BitDepth([path])

    np.testing.assert_array_equal(decode(path, None, depth), decode(path, None))


@pytest.mark.parametrize(("channels", "top"), [(2, 4095), (3, 4095), (4, 4095), (3, 65535)])
def test_colour_of_fewer_bits_is_reported_and_decoded_as_before(tmp_path, channels, top):
    path = tmp_path / "x.png"
    pixels = np.stack([ramp(top)] * channels, axis=2)
    if channels in (2, 4):
        pixels[:, :, -1] = 0xFFFF  # alpha
    write_deep_png(path, pixels)
    depth = BitDepth([str(path)])

    decoded = decode(str(path), None, depth)

    np.testing.assert_array_equal(decoded[0], ramp(top) >> 8)
    if top == 65535:
        assert depth.record() == {}
        assert depth.report() == []
    else:
        assert depth.record() == {"colour_bits": 12}
        (line,) = depth.report()
        assert "uses 12 bits" in line
        assert "16 levels" in line


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A folder with the shipped parameters, for images in `scans`."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((PROJECT / "params.yaml").read_text())
    edit_params(Path("params.yaml"), dataset="imagefolder", data__source="scans")
    return tmp_path


def write_scans(folder: Path, top: int, count: int = 12) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        for index in range(count):
            pixels = random.integers(0, top + 1, (9, 9))
            pixels[0, 0] = top
            write_grey(folder / name / f"{index}.png", pixels)


def test_prepare_scales_by_the_training_split_and_records_it(workspace, capsys):
    write_scans(Path("scans/train"), 4095)
    write_scans(Path("scans/val"), 1000)
    write_scans(Path("scans/test"), 8191, count=2)

    prepare.main(Path("data/raw"), Path("data/prepared"))

    output = capsys.readouterr().out
    assert "grey images: the training split uses 12 bits, which were scaled to 8" in output
    assert "4 images of other splits have larger values, which were clipped" in output
    info = read_json(Path("data/prepared/dataset.json"))
    assert (info["grey_bits"], info["grey_clipped"]) == (12, 4)
    for split in ("train", "validation", "test"):
        inputs = load_split(Path("data/prepared"), split).inputs
        folder = Path("scans") / {"validation": "val"}.get(split, split)
        files = sorted(folder.rglob("*.png"), key=str)
        expected = np.stack([np.asarray(Image.open(path)) for path in files]) // 16
        np.testing.assert_array_equal(inputs[:, 0], expected.clip(max=255))


def test_prepare_says_nothing_about_grey_of_all_16_bits(workspace, capsys):
    write_scans(Path("scans"), 65535)

    prepare.main(Path("data/raw"), Path("data/prepared"))

    assert "16-bit" not in capsys.readouterr().out
    assert not {"grey_bits", "grey_clipped"} & read_json(Path("data/prepared/dataset.json")).keys()
    published = ImageFolder(DataConfig(Path("unused"), path="scans")).read()
    (images,) = published.train.chunks()
    expected = np.stack([np.asarray(Image.open(path)) >> 8 for path in published.train.paths])
    np.testing.assert_array_equal(images[:, 1], expected)
