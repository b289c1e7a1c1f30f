"""What l1_channel at ratio 0.5 does to networks of libraries, as the tables in docs/networks.md.

    python benchmarks/networks.py                       # all of both libraries; writes the tables
    python benchmarks/networks.py timm                  # all of one library; writes its table
    python benchmarks/networks.py torchvision/swin_t timm/dla34   # prints the rows of these

Of torchvision these are all classification networks under 100 M parameters; of timm, those of
TIMM. Every network has fresh weights, reads one channel and has 7 classes, none of which those of
the libraries have: so both are adapted. It is pruned, saved, reloaded and compared bit by bit, in a
process of its own. Images are small where the network can read them. CPU seconds and memory are
those of finding the groups, the check against zeroed copies included.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch

from prunelab.artifacts.networks import ModelCard, Network, load_model, save_network
from prunelab.config.params import Normalise, parse_params, read_params
from prunelab.core.errors import InputError
from prunelab.models.catalogue import TORCHVISION
from prunelab.models.cost import macs, parameters
from prunelab.models.networks import build, build_on_meta
from prunelab.pruning.prune import find_groups, prune

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs/networks.md"
MARK = "<!-- The table of {} is written by benchmarks/networks.py. -->\n"
END = "<!-- The end of the table. -->\n"
LIBRARIES = ("torchvision", "timm")
FORK = multiprocessing.get_context("fork")
METHOD, RATIO = "l1_channel", 0.5
CLASSES, LIMIT = 7, 100e6
# Sides of the images in pixels, by the start of a name, where 64 are too few or not typical.
SIDES = {
    "efficientformer": 224,
    "inception_v": 96,
    "levit": 224,
    "maxvit": 224,
    "swin": 224,
    "tiny_vit": 224,
    "vit": 224,
}
# Well-known networks of timm, the smallest of each family.
TIMM = (
    "caformer_s18",
    "coatnet_pico_rw_224",
    "convmixer_768_32",
    "convnext_atto",
    "cspresnet50",
    "deit_tiny_patch16_224",
    "dla34",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "ese_vovnet19b_dw",
    "fastvit_t8",
    "fbnetc_100",
    "ghostnet_050",
    "ghostnetv2_100",
    "gmlp_ti16_224",
    "hardcorenas_a",
    "hrnet_w18_small",
    "inception_next_atto",
    "lcnet_035",
    "levit_128s",
    "maxvit_pico_rw_256",
    "mixer_s32_224",
    "mnasnet_small",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "mobileone_s0",
    "mobilevit_xxs",
    "nfnet_l0",
    "pit_ti_224",
    "poolformer_s12",
    "regnety_002",
    "repvit_m0_9",
    "res2net50_14w_8s",
    "resmlp_12_224",
    "resnet10t",
    "resnext26ts",
    "rexnet_100",
    "selecsls42",
    "semnasnet_075",
    "spnasnet_100",
    "swin_tiny_patch4_window7_224",
    "tf_efficientnet_lite0",
    "tiny_vit_5m_224",
    "tinynet_e",
    "vit_tiny_patch16_224",
)
# What no channel method makes 1.5 times cheaper, with the reason in the table: norms over the
# width of the stream and of hidden layers, or norms of the weights themselves.
UNCHANGED = ("caformer_s18", "gmlp_ti16_224", "nfnet_l0")
HEADINGS = (
    "network",
    "pixels",
    "M parameters",
    "M MACs",
    "after",
    "fewer",
    "same bits",
    "CPU s",
    "GiB",
    "kept, besides the head",
)


def shape_of(name: str) -> tuple[int, int, int]:
    """The images that a network is measured with: small ones, unless it needs others."""
    library, _, network = name.partition("/")
    if library == "timm":
        import timm

        settings = timm.models.get_pretrained_cfg(network)
        if settings.fixed_input_size:
            return 1, *settings.input_size[1:]

    sides = [side for start, side in SIDES.items() if network.startswith(start)]
    side = sides[0] if sides else 64
    return 1, side, side


def row(name: str) -> tuple[str, ...]:
    """One row of the table, or the reason why there is nothing to say."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    label, shape = name.partition("/")[2], shape_of(name)
    spec = parse_params(read_params(PROJECT / "params.yaml")).spec(METHOD, RATIO)
    model = build(name, CLASSES, shape)
    macs_before, count = macs(model, shape), parameters(model)

    started = time.process_time()
    try:
        find_groups(model, architecture=name, kind="channel", shape=shape, method=METHOD)
    except InputError as error:
        return label, str(shape[1]), f"{count / 1e6:.1f}", *[""] * 6, str(error)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    result = prune(model, name, spec, shape=shape, seed=0)
    macs_after = macs(model, shape)
    kept = "; ".join(layers.describe() for layers in result.kept)
    return (
        label,
        str(shape[1]),
        f"{count / 1e6:.1f}",
        f"{macs_before / 1e6:.0f}",
        f"{macs_after / 1e6:.0f}",
        f"{macs_before / macs_after:.2f}x",
        "yes" if reloads(model, name, shape) else "NO",
        f"{seconds:.1f}",
        f"{peak:.1f}",
        kept,
    )


def reloads(model: torch.nn.Module, name: str, shape: tuple[int, int, int]) -> bool:
    """Whether the network computes the same bits once it is saved and reloaded."""
    card = ModelCard(
        model=name,
        classes=CLASSES,
        input_shape=shape,
        normalise=Normalise(mean=[0.0], std=[1.0]),
        seed=0,
        imported=None,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.safetensors")
        save_network(path, Network(model=model, card=card))
        reloaded = load_model(path)

    images = torch.randn(2, *shape)
    with torch.no_grad():
        return torch.equal(reloaded(images), model.eval()(images))


def names_of(library: str) -> list[str]:
    """The networks of a library that are measured."""
    if library == "timm":
        return [f"timm/{name}" for name in TIMM]

    torch.set_num_threads(1)
    names = []
    for name in TORCHVISION:
        model = build_on_meta(f"torchvision/{name}", CLASSES, (1, 224, 224))
        if parameters(model) < LIMIT:
            names.append(f"torchvision/{name}")
    return names


def rows(names: Iterable[str]) -> list[str]:
    """The lines of these networks, printed as they come."""
    for module in ("torchvision", "timm"):  # once, rather than in every process
        with suppress(ImportError):
            import_module(module)

    lines = []
    for name in names:
        with FORK.Pool(1) as pool:
            lines.append(_line(pool.apply(row, (name,))))
        print(lines[-1], flush=True)
    return lines


def write_table(library: str) -> None:
    """Measure all networks of a library and write its table into the page."""
    with FORK.Pool(1) as pool:
        names = pool.apply(names_of, (library,))
    lines = [_line(HEADINGS), "|" + " --- |" * len(HEADINGS), *rows(names)]

    text = PAGE.read_text()
    mark = MARK.format(library)
    start = text.index(mark) + len(mark)
    end = text.index(END, start)
    PAGE.write_text(text[:start] + "\n" + "\n".join(lines) + "\n\n" + text[end:])


def main() -> None:
    """Measure the networks named; or all of a library, or of both, whose tables are written."""
    chosen = sys.argv[1:] or LIBRARIES
    if set(chosen) <= set(LIBRARIES):
        for library in chosen:
            write_table(library)
    else:
        rows(chosen)


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
