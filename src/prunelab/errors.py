"""The one exception for input that cannot be used, and text that is fit to be shown."""

from collections.abc import Iterable


class Refused(Exception):
    """Input was refused; `problems` holds one line for each reason, naming the bad value and what is valid.

    What others wrote is quoted in them, so whatever would break the line or act on a terminal is spelt out.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [one_line(line) for line in ([problems] if isinstance(problems, str) else problems)]
        super().__init__("\n".join(self.problems))


def one_line(text: str) -> str:
    """The same words, every letter that cannot be printed (newlines, escape sequences) as Python spells it."""
    return text if text.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
