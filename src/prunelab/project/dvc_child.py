"""DVC in a process that ends when the study that started it ends.

Run as `python -m prunelab.project.dvc_child ARGUMENTS`, with the arguments of `dvc`.
"""

import sys

from prunelab.core.lifecycle import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    from dvc.cli import main

    sys.exit(main(sys.argv[1:]))
