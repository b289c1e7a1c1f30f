"""`prunelab predict`: arguments and help, and how predictions are printed."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from prunelab.commands.common import print_line, reporting_errors
from prunelab.core.files import user_path

if TYPE_CHECKING:
    from prunelab.commands.predict.predict import Prediction


def predict(
    model_file: Annotated[
        Path, Argument(parser=user_path, metavar="MODEL", help="A model file of prunelab.")
    ],
    files: Annotated[
        list[Path] | None,
        Argument(
            parser=user_path,
            metavar="FILE",
            help="Images, or files with a text on every line; of a folder, all in it.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        Option(metavar="TEXT", help="A text; may be repeated.", show_default=False),
    ] = None,
    top: Annotated[int, Option(min=1, help="How many of the likeliest classes to print.")] = 3,
    as_json: Annotated[
        bool, Option("--json", help="Print a JSON object on each line, with all digits.")
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Option(help="auto takes a GPU where there is one.")
    ] = "auto",
) -> None:
    """Print the likeliest classes of images or texts, with their probabilities.

    Images may have any size. They become inputs as the data of the study did, by what the model
    file says: the centre part, its size, colours or grey, mean and deviation. Texts are cut into
    the tokens of the encoder that training started from.

    A file that cannot be read is a line on stderr. The others are printed, and the exit status is
    1 at the end.

    Example:
      prunelab predict models/focus/finetuned/0.safetensors photos/
    """
    is_complete = True
    with reporting_errors():
        from prunelab.commands.predict.predict import predict_inputs, use_plugins_of_project

        use_plugins_of_project()

        for prediction in predict_inputs(
            model_file, files or [], text or [], top=top, device=device
        ):
            if prediction.problem:
                is_complete = False
                print(f"{prediction.label}: {prediction.problem}", file=sys.stderr, flush=True)
            elif as_json:
                print_line(_as_json(prediction))
            else:
                print_line(_as_text(prediction))
    if not is_complete:
        raise typer.Exit(1)


def _as_text(prediction: "Prediction") -> str:
    classes = [f"{name} {probability:.3f}" for name, probability in prediction.classes]
    return f"{prediction.label}: {', '.join(classes)}"


def _as_json(prediction: "Prediction") -> str:
    classes = []
    for name, probability in prediction.classes:
        classes.append({"class": name, "probability": probability})
    return json.dumps({"input": prediction.name, "classes": classes})
