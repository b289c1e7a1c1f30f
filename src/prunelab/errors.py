"""The one exception for input that cannot be used."""

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
