"""What is done with a search from outside: its state is read, it is stopped, it is locked.

Nothing here needs torch or Optuna.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunelab.commands.search.plan import Request, last_folder
from prunelab.commands.search.records import SearchState, best_believed
from prunelab.core.errors import InputError
from prunelab.core.files import write
from prunelab.core.locks import try_lock

STOP_FILE = "stop"
LOCK_FILE = "lock"


def status(root: Path) -> list[str]:
    """What the last search has done so far."""
    folder = last_folder(root)
    state = state_of(folder)
    request = Request(**state.request)
    running = _is_running(folder)

    lines = [f"{request.command()}: {'running' if running else 'not running'}"]
    ended = [tried for tried in state.tries if tried.state != "running"]
    lines.append(
        f"{len(ended)} of at most {state.identity['parameters']['search.tries']} tries, "
        f"{state.epochs:,} epochs, {state.seconds:,.0f} s"
    )

    objective = request.objective
    seeds = state.identity["parameters"]["seeds"]
    best = best_believed(ended, objective, seeds, request.max_drop_share)
    if best is None:
        lines.append(f"nothing is within {request.max_drop:g} points so far")
    else:
        share = best.last.share(objective.metric)
        lines.append(
            f"best so far, on validation: {best.point.describe()}; "
            f"{share:.1%} of the {objective.noun} left, {100 * best.last.drop:.2f} points lost"
        )

    if state.finals:
        lines.append(
            "what was found is trained again and tested; prunelab search --resume prints it"
        )
    elif not running:
        lines.append("the test split was not asked yet; to go on: prunelab search --resume")
    return lines


def stop(root: Path) -> list[str]:
    """Let the running search begin no more tries, and end when those that run have ended.

    Raises:
        InputError: if no search runs.
    """
    folder = last_folder(root)
    if not _is_running(folder):
        raise InputError("no search is running here; prunelab search --status says more")
    write(folder / STOP_FILE, b"")
    return ["the search begins no more tries; it ends when those that run have ended"]


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a search, and forget an earlier wish to stop."""
    folder.mkdir(parents=True, exist_ok=True)
    with try_lock(folder / LOCK_FILE) as held:
        if not held:
            raise InputError("this search is running already; prunelab search --status shows it")
        (folder / STOP_FILE).unlink(missing_ok=True)
        yield


def _is_running(folder: Path) -> bool:
    if not (folder / LOCK_FILE).exists():
        return False
    with try_lock(folder / LOCK_FILE) as held:
        return not held


def state_of(folder: Path) -> SearchState:
    state = SearchState.load(folder)
    if state is None:
        raise InputError("the search has not begun a try yet")
    return state
