"""The one exception for input that cannot be used, and what is said of a machine that fails us."""

from collections.abc import Iterable


class Refused(Exception):
    """Input was refused; `problems` holds one line for each reason, naming the bad value and what is valid."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def machine_failed(error: OSError) -> str:
    """One line on a full disk, a folder that cannot be written, a file that went away: path, cause, and what to do."""
    # One that comes from another process holds its traceback, and says in its last line what went wrong.
    said = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    where = "" if error.filename is None else f"{error.filename}: "
    return f"{where}{said}; what was there before is untouched, and once this is mended the same command goes on"
