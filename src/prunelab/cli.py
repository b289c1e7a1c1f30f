"""The `prunelab` command: it registers the commands, nothing else. Stages are run by DVC."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from prunelab.commands.allocate.command import allocate
from prunelab.commands.apply.command import apply
from prunelab.commands.check.command import check
from prunelab.commands.common import start
from prunelab.commands.compare.command import compare
from prunelab.commands.doctor.command import doctor
from prunelab.commands.explain_command import explain
from prunelab.commands.export.command import export
from prunelab.commands.list_command import list_names
from prunelab.commands.new.command import new
from prunelab.commands.predict.command import predict
from prunelab.commands.push import push
from prunelab.commands.repro.command import repro
from prunelab.commands.review.command import review
from prunelab.commands.search.command import search
from prunelab.commands.studies.command import app as studies
from prunelab.commands.sweep.command import sweep
from prunelab.commands.verify.command import verify
from prunelab.commands.warm_command import warm

# The commands by what one does with them, each with its purpose in a line.
SECTIONS = {
    "Run a study": {
        "new": "a project and parameters that fit your own images or texts",
        "check": "find everything wrong with params.yaml and the files it names",
        "repro": "bring all results up to date, several stages at a time",
        "sweep": "try every combination of several parameters' values",
        "search": "the smallest network that loses little enough, with evidence",
        "study": "run published studies and compare the numbers",
    },
    "Look at results": {
        "compare": "experiments and commits side by side",
        "apply": "bring an experiment's parameters and results into this folder",
        "review": "what a change does to the results, as Markdown",
    },
    "Trust them": {
        "verify": "repeat a commit's pipeline and compare all results",
        "doctor": "what of this machine would stop a study or change its bits",
    },
    "Use them": {
        "list": "methods, models, datasets, and the layers of a network",
        "explain": "what a method or criterion computes, its source and needs",
        "allocate": "give every layer its own ratio, by its sensitivity",
        "predict": "the classes of your own images or texts",
        "export": "write a network for other programs or other people",
    },
    "Save time": {
        "warm": "keep torch loaded, so that stages start at once",
        "push": "push finished stages, so that a second machine need not run them",
    },
}


def _nearest_choices(message: str) -> str:
    """What to add to a message about a wrong choice: the choices that are most like it."""
    from prunelab.core.registry import MAX_VALID
    from prunelab.core.text import nearest_names

    found = re.fullmatch(r"'(.*?)' is not one of (.*)\.", message)
    if found is None:
        return ""
    wrong, choices = found.groups()
    quoted = re.findall(r"'(.*?)'", choices)
    count = 3 if len(quoted) > MAX_VALID else 1
    return f" Did you mean {nearest_names(wrong, quoted, count)}?"


class _Sections(TyperGroup):
    """Lists the commands by section, and reports wrong arguments in plain words."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # Typer lets Pydantic check choices, and Pydantic puts its own words before ours.
            message = error.message.removeprefix("Value error, ")
            error.message = message + _nearest_choices(message)
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                for name, purpose in commands.items():
                    formatter.write(f"  {name:<{width}}  {purpose}\n")


# What Typer calls the types of values, and what the help calls them.
TYPES = {"<int range>": "N", "<float range>": "X", "<float>": "X", "<str>": "TEXT"}


class _Command(TyperCommand):
    """A command whose help names the types of values in plain words."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            name, purpose = record
            for word, plain in TYPES.items():
                name = name.replace(word, plain)
            if param.param_type_name == "argument":
                sections["Arguments"].append((name.split(" ")[0], purpose))
            else:
                sections["Options"].append((name, purpose))

        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _help(command: Callable[..., Any]) -> str:
    """The docstring of a command, whose example keeps its lines: each is for a shell."""
    text = inspect.getdoc(command) or ""
    return text.replace("Example:\n", "\b\nExample:\n")


app = typer.Typer(
    cls=_Sections,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Pruning studies that anybody can repeat.\n\n"
        "DVC runs the pipeline too: dvc repro, dvc exp run -S ratio=0.8.\n\n"
        "More about a command, with an example: prunelab COMMAND --help."
    ),
)
app.callback()(start)

for command in (
    *(new, check, repro, sweep, search, compare, apply, review, verify, doctor),
    *(explain, predict, export, allocate, warm, push),
):
    app.command()(command)
app.command("list")(list_names)
app.add_typer(studies, name="study")
for registered in (*app.registered_commands, *studies.registered_commands):
    assert registered.callback is not None
    registered.help = _help(registered.callback)
    registered.cls = _Command
assert studies.registered_callback is not None
assert studies.registered_callback.callback is not None
studies.registered_callback.help = _help(studies.registered_callback.callback)
