"""The `prunelab` command: it registers the commands, nothing else. Stages are run by DVC."""

import typer

from prunelab.commands.allocate.command import allocate
from prunelab.commands.check.command import check
from prunelab.commands.common import forget_git_repository
from prunelab.commands.compare.command import compare
from prunelab.commands.export.command import export
from prunelab.commands.list_command import list_names
from prunelab.commands.push import push
from prunelab.commands.repro.command import repro
from prunelab.commands.review.command import review
from prunelab.commands.studies.command import app as studies
from prunelab.commands.sweep.command import sweep
from prunelab.commands.verify.command import verify
from prunelab.commands.warm_command import warm

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Pruning studies that anybody can repeat. "
        "DVC runs the pipeline itself: dvc repro, dvc exp run."
    ),
)
app.callback()(forget_git_repository)

app.command()(allocate)
app.command()(review)
app.command()(repro)
app.command()(push)
app.command()(sweep)
app.command()(verify)
app.command()(warm)
app.command()(check)
app.command("list")(list_names)
app.command()(export)
app.command()(compare)
app.add_typer(studies, name="study")
