"""Counts with their nouns, and plurals, for messages and tables."""

# What pruning removes: single weights, and the kinds of units in `pruning.methods.KINDS`.
UNITS = {"weight": "weights", "channel": "channels", "head": "heads", "hidden": "hidden units"}


def counted(count: int, noun: str) -> str:
    """Return `1 file`, `2 files` or `1,000 files`; the plural of `noun` must end with an s."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}s"
