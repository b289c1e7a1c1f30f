"""The one exception for input that cannot be used, and text that is fit to be shown."""

import re
from collections.abc import Iterable

# What torch raises is a RuntimeError, a GPU's by a class of its own, and errors are told without importing torch.
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
MAX_LINE_LENGTH = 4000  # characters of a line: names in a hostile file may have millions


class InputError(Exception):
    """Input was refused; `problems` holds one line for each reason, naming the bad value and what is valid.

    What others wrote is quoted in them, so whatever would break the line or act on a terminal is spelt out.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [
            one_line(line) for line in ([problems] if isinstance(problems, str) else problems)
        ]
        super().__init__("\n".join(self.problems))


def one_line(text: str) -> str:
    """The same words, every letter that cannot be printed (newlines, escape sequences) as Python spells it."""
    text = text if len(text) <= MAX_LINE_LENGTH else f"{text[:MAX_LINE_LENGTH]} ..."
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    )


def describe_failure(error: OSError | MemoryError | RuntimeError) -> str | None:
    """One line on what the machine lacks: cause, and what to do; None if the error is of another kind, and so ours."""
    return describe_os_error(error) if isinstance(error, OSError) else _memory_ran_out(error)


def describe_os_error(error: OSError) -> str:
    """One line on a full disk, a folder that cannot be written, a file that went away: path, cause, and what to do."""
    # One that comes from another process holds its traceback, and says in its last line what went wrong.
    said = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    where = "" if error.filename is None else f"{error.filename}: "
    return one_line(
        f"{where}{said}; what was there before is untouched, and once this is mended the same command goes on"
    )


def _memory_ran_out(error: MemoryError | RuntimeError) -> str | None:
    if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
        return None
    sentences = str(error).partition("\n")[0].split(". ")  # torch adds some on its internals
    said = next(filter(OUT_OF_MEMORY.search, sentences), sentences[0])
    return one_line(
        f"memory ran out{said and f' ({said})'}; a smaller batch size, data.resize or data.memory_mb needs less, "
        "and what was finished before is kept"
    )
