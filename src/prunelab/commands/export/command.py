"""`prunelab export`: arguments and help; `export_network` does the work."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prunelab.commands.common import print_line, reporting_errors
from prunelab.core.project_root import argument_path


def export(
    form: Annotated[
        str, Argument(metavar="FORMAT", help="onnx, pt2 (torch.export's), or folder (both).")
    ],
    model_file: Annotated[
        Path | None,
        Argument(
            parser=argument_path,
            metavar="PATH",
            help="A model file of prunelab.  [default: the focus of the first seed]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            parser=argument_path,
            metavar="PATH",
            help="Where to write it.  [default: in exports/, named after the network]",
        ),
    ] = None,
    with_preprocessing: Annotated[
        bool,
        Option(
            "--with-preprocessing", help="The file takes pixels 0 to 1 and normalises them itself."
        ),
    ] = False,
    rounds: Annotated[
        int, Option(min=0, help="Rounds of the latency comparison, 2 or more; 0: no comparison.")
    ] = 10,
) -> None:
    """Write a network as ONNX or in torch.export's format, for batches of any size, and check it.

    A folder is for a colleague without prunelab. It has both formats, and predict.py with the files
    that it reads (preprocess.json, classes.txt). predict.py needs only NumPy, Pillow and either
    onnxruntime or torch. A README.md says what the network is, how accurate it is and where it
    comes from.

    The scores of the file are compared with the network's on several batch sizes. A file that
    differs by more than 1e-4 of the largest score, or names another class anywhere, is not kept.
    The metadata have the network's card, the input (images: float32 NCHW, normalised as in
    training; texts: int64 ids) and the names of the classes. Latency is compared on the CPU, eager
    torch and the file in turns, with `runtime.threads` and `channels_last`. A ratio is printed only
    if nothing else computed, the calls were steady and its 95 % interval is narrow.

    ONNX needs the extra `onnx`, which `make setup` installs.

    Example:
      prunelab export folder --out for-my-colleague
      prunelab export onnx --out digits.onnx
    """
    with reporting_errors():
        from prunelab.commands.export.export import export_network

        lines = export_network(
            form, model_file, out, preprocessing=with_preprocessing, rounds=rounds
        )
        for line in lines:
            print_line(line)
