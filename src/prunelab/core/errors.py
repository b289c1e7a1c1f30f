"""The one exception for bad input, and one-line messages for what the machine does not have.

    InputError                        input that we refuse: its message says why, line by line
    OSError, MemoryError,
    RuntimeError (memory of torch)    the machine is short of something: see `describe_failure`

Everything else that is raised is a bug of ours and keeps its traceback.
"""

import re
from collections.abc import Iterable

# Torch raises RuntimeErrors. Matching their text keeps torch out of this module.
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
FILES_UNCHANGED = "Existing files are unchanged."
MAX_LINE_LENGTH = 4000  # characters: names in a hostile file may have millions


class InputError(Exception):
    """The input cannot be used.

    Attributes:
        problems: one line per problem, naming the bad value and what is valid. Characters that
            would break a line or control a terminal are escaped, since lines quote foreign text.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        if isinstance(problems, str):
            problems = [problems]
        self.problems = [one_line(problem) for problem in problems]
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["InputError"], tuple[list[str]]]:
        return type(self), (self.problems,)  # the default would make one problem of all lines


def one_line(text: str) -> str:
    """The same text with unprintable characters (newlines, escape sequences) as Python escapes."""
    if len(text) > MAX_LINE_LENGTH:
        text = f"{text[:MAX_LINE_LENGTH]} ..."
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return repr(character)[1:-1]


def describe_failure(error: BaseException, *, state: str = FILES_UNCHANGED) -> str | None:
    """One line that says what the machine does not have and what to do.

    `state` is as in `describe_os_error`. None if the error has nothing to do with the machine,
    which makes it a bug of ours.
    """
    if isinstance(error, OSError):
        return describe_os_error(error, state=state)
    if isinstance(error, MemoryError):
        return _describe_out_of_memory(error)
    if isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)):
        return _describe_out_of_memory(error)
    return None


def describe_os_error(error: OSError, *, state: str = FILES_UNCHANGED) -> str:
    """One line for a full disk, a read-only folder or a missing file: path, cause and advice.

    `state` is a sentence about the files that were there before. The default holds for everything
    that writes with `files.replacing`.
    """
    place = ""
    if error.filename is not None:
        place = f"{error.filename}: "

    cause = error.strerror
    if not cause:
        # An error from another process is a traceback as text. The last line has the cause.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        cause = lines[-1]

    return one_line(
        f"{place}{cause}. {state} Fix the problem, then run the same command again to continue."
    )


def _describe_out_of_memory(error: MemoryError | RuntimeError) -> str:
    # Torch adds sentences about its allocator. Only the one that names the shortage is shown.
    sentences = str(error).partition("\n")[0].split(". ")
    matching = [sentence for sentence in sentences if OUT_OF_MEMORY.search(sentence)]
    cause = (matching or sentences)[0]

    detail = ""
    if cause:
        detail = f" ({cause})"
    return one_line(
        f"memory ran out{detail}. A smaller batch size, data.resize or data.memory_mb needs less. "
        "Finished work is kept."
    )
