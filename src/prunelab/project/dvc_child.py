"""DVC in a process of its own that ends when the study that started it does: `python -m prunelab.project.dvc_child`."""

import sys

from prunelab.core.lifecycle import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    from dvc.cli import main

    sys.exit(main(sys.argv[1:]))
