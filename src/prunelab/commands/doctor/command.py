"""`prunelab doctor`: arguments, help and printed lines; `doctor.examine` does the work."""

from pathlib import Path

import typer

from prunelab.commands.common import reporting_errors
from prunelab.core.terminal import Style, paint

STYLES: dict[str, Style] = {"ok": "green", "look": "yellow", "STOP": "red"}


def doctor() -> None:
    """Look at this machine: what would stop a study, slow it down, or change the last bits.

    It looks at Python and the locked packages, Git, DVC, the processor, memory, disk, GPUs and what
    else runs here. Every line that is not "ok" says what to do. The exit status is 1 if something
    would stop a study. Nothing is changed, and no network is used.

    Example:
      prunelab doctor
    """
    from prunelab.commands.doctor.doctor import Verdict, examine

    with reporting_errors():
        findings = examine(Path.cwd())

    for finding in findings:
        verdict = paint(f"{finding.verdict.value:<5}", STYLES[finding.verdict.value])
        print(f"{verdict} {finding.text}")
        if finding.remedy:
            print(f"      -> {finding.remedy}")
    if any(finding.verdict is Verdict.stop for finding in findings):
        raise typer.Exit(1)
