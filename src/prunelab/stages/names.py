"""The names of the stages. No stage imports this module but `code`, which looks at all of them."""

from pathlib import Path

# Those for which it pays to load torch ahead.
STAGES_WITH_TORCH = ("benchmark", "evaluate", "finetune", "prune", "sensitivity", "train_base")
NO_STAGES = ("__init__", "__main__", "entry", "names", "task")


def stage_names() -> list[str]:
    """The stages that there are: a file each."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(file.stem for file in files if file.stem not in NO_STAGES)
