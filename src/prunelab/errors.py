"""The one exception for input that cannot be used."""

from collections.abc import Iterable


class Refused(Exception):
    """Input was refused; `problems` holds one line for each reason, naming the bad value and what is valid."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
