"""The one exception for input that cannot be used, and what is said of a machine that fails us."""

from collections.abc import Iterable

LONGEST = 4000  # characters of a line: names in a hostile file may have millions


class Refused(Exception):
    """Input was refused; `problems` holds one line for each reason, naming the bad value and what is valid.

    What is quoted from files cannot break lines or speak to a terminal: characters that do not print are escaped.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [_line(problem) for problem in ([problems] if isinstance(problems, str) else problems)]
        super().__init__("\n".join(self.problems))


def _line(problem: str) -> str:
    cut = problem if len(problem) <= LONGEST else f"{problem[:LONGEST]} ..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


def machine_failed(error: OSError) -> str:
    """One line on a full disk, a folder that cannot be written, a file that went away: path, cause, and what to do."""
    # One that comes from another process holds its traceback, and says in its last line what went wrong.
    said = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{said}; what was there before is untouched, and once this is mended the same command goes on"
