"""Counts with their nouns, for messages and tables."""


def counted(count: int, noun: str) -> str:
    """Return `1 file`, `2 files` or `1,000 files`; the plural of `noun` must end with an s."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}s"
