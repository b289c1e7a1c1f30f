"""What the study takes beside its work: as multiples of `import torch`, measured in the same run.

    python benchmarks/pipeline.py            # about eight minutes
    python benchmarks/pipeline.py --quick    # without the whole study and its memory
    python benchmarks/pipeline.py --busy     # instead: every stage beside two trainings

Everything runs in temporary clones of HEAD, from nothing: without results and dvc.lock. Byte code
of all packages is kept in a temporary folder and is there before anything is measured. A multiple
is of the median of all measurements of `python -c "import torch"`, taken before, between and after.

What the study takes that is neither training, evaluating nor measuring time is what it takes with
next to none of that: with one epoch of a fifth of the examples, 5 % of them as test split, one
ratio and one example for sensitivity, and two rounds of a millisecond for speed. The same cells
run, by the same command, so that stages overlap in the same way; no code under measurement knows of
it. The share is of wall seconds; that of CPU seconds, which other work on the machine changes less,
is printed below the table. What pruning itself computes counts as overhead.

The cold start of a stage is what its command takes by itself in a study of one seed and one cell
with one epoch of 300 examples.

With --busy every stage runs by itself, cold, with three seeds: first alone, then while two other
studies train their dense networks, three seeds side by side each. On two cores the fair share of a
stage that computes on one core is then 2.5, and of one that computes on two it is 3. A stage that
takes ten times as long as alone is ended. All take five minutes on two idle cores; --stages names
those to measure.

Memory is the proportional set size of a command and of all that it starts: a page that several
processes share counts once. It is sampled over a study of all stages, but of fewer cells and
epochs.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from ruamel.yaml import YAML

PROJECT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
RESULTS = ("dvc.lock", "metrics", "plots")
JOBS = 2
MIB = 2**20

SAMPLE_INTERVAL_S = 0.3  # of memory; a sample costs some milliseconds a process
POLL_INTERVAL_S = 0.1
GRACE_S = 20.0  # for a command that was interrupted to end its own processes

OTHER_TRAININGS = 2
SETTLE_S = 10.0  # until the other trainings take their steps
MAX_RATIO_BUSY = 3.5
MAX_SLOWDOWN = 10  # beside trainings; a stage that takes longer is ended

FEW_MEASUREMENTS = {
    "benchmark.batch_sizes": [1],
    "benchmark.rounds": 2,
    "benchmark.seconds": 0.001,
    "sensitivity.ratios": [0.5],
    "sensitivity.samples": 1,
}
# The study without its work.
BARE = FEW_MEASUREMENTS | {
    "train.epochs": 1,
    "prune.epochs": 1,
    "finetune.epochs": 1,
    "data.test_fraction": 0.05,
    "data.validation_fraction": 0.8,
}
# All stages and networks of the study; fine-tuning is that of the study.
SHORT = FEW_MEASUREMENTS | {"grid.ratios": [0.5], "train.epochs": 2}
# One of everything: what a stage takes is its start.
SMALLEST = FEW_MEASUREMENTS | {
    "seeds": [0],
    "grid.methods": ["l1_channel"],
    "grid.ratios": [0.5],
    "train.epochs": 1,
    "prune.epochs": 1,
    "finetune.epochs": 1,
    "data.test_fraction": 0.8,
}
# What --busy measures: long enough that the start of a stage is not all of it.
ONE_CELL = {"grid.methods": ["l1_channel"], "grid.ratios": [0.5], "train.epochs": 10}


def clone(folder: Path) -> Path:
    """A clone of HEAD from nothing: no lock to compare with, nothing to reuse."""
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(folder)], check=True)
    for result in RESULTS:
        subprocess.run(["git", "rm", "-rq", result], cwd=folder, check=True)
    return folder


@dataclass
class Memory:
    """The most that all processes took at a time, and what each kind took then, in MiB."""

    peak: float = 0.0
    kinds: dict[str, float] = field(default_factory=dict)

    def sample(self, processes: Sequence[subprocess.Popen]) -> None:
        kinds: dict[str, float] = {}
        for process in _with_descendants(processes):
            with suppress(psutil.Error, OSError):  # it has ended meanwhile
                size = process.memory_full_info().pss / MIB
                kind = _kind(process.cmdline())
                kinds[kind] = kinds.get(kind, 0.0) + size

        if sum(kinds.values()) > self.peak:
            self.peak, self.kinds = sum(kinds.values()), kinds

    def __str__(self) -> str:
        largest = sorted(self.kinds.items(), key=lambda item: -item[1])
        return ", ".join(f"{kind} {size:.0f}" for kind, size in largest if size >= 1)


def _with_descendants(processes: Sequence[subprocess.Popen]) -> list[psutil.Process]:
    found = {}
    for process in processes:
        with suppress(psutil.Error):
            top = psutil.Process(process.pid)
            for each in (top, *top.children(recursive=True)):
                found[each.pid] = each
    return list(found.values())


def _kind(command: Sequence[str]) -> str:
    text = " ".join(command)
    if "prunelab.warm.server" in text:
        return "loaded process and stages in its forks"
    if "-m prunelab.stages" in text:
        return "commands of stages"
    if "repro" in text:
        return "runner and DVC"
    return " ".join(Path(word).name for word in command[:4])


@dataclass
class Laboratory:
    """A temporary folder with clones, and the environment in which commands run there."""

    base: Path
    import_seconds: list[float] = field(default_factory=list)
    running: list[subprocess.Popen] = field(default_factory=list)

    def study(self, name: str, changes: Mapping[str, Any] | None = None) -> Path:
        """A clone with other parameters, given by dotted names."""
        folder = clone(self.base / name)
        for key, value in (("user.name", "Benchmark"), ("user.email", "benchmark@example.com")):
            subprocess.run(["git", "config", key, value], cwd=folder, check=True)

        yaml, path = YAML(), folder / "params.yaml"
        params = yaml.load(path)
        for dotted, value in (changes or {}).items():
            *sections, key = dotted.split(".")
            section = params
            for each in sections:
                section = section[each]
            section[key] = value
        yaml.dump(params, path)

        self.wait([self.start("python -m compileall -q src", folder)])
        return folder

    def variables(self, folder: Path, *, warm: bool) -> dict[str, str]:
        """The environment of a user who has just logged in, with the code of a clone."""
        own = {}
        for name, value in os.environ.items():
            if not name.startswith(("PYTHON", "PRUNELAB_", "DVC_", "OMP_")):
                own[name] = value

        own |= {
            "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
            "PYTHONPATH": str(folder / "src"),
            "PYTHONPYCACHEPREFIX": str(self.base / "bytecode"),
            "DVC_SITE_CACHE_DIR": str(self.base / "dvc"),
            "XDG_RUNTIME_DIR": str(self.base),
        }
        if not warm:
            own["PRUNELAB_WARM"] = "off"
        return own

    def start(
        self, command: str, folder: Path, *, warm: bool = False, core: int | None = None
    ) -> subprocess.Popen:
        """Start a shell command, on one core if it is given."""
        log = self.base / f"{len(self.running)}.log"

        def pin() -> None:
            if core is not None:
                os.sched_setaffinity(0, [core])

        with log.open("wb") as output:
            process = subprocess.Popen(
                ["sh", "-c", command],
                cwd=folder,
                env=self.variables(folder, warm=warm),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=pin,
            )
        process.log = log
        self.running.append(process)
        return process

    def wait(self, processes: Sequence[subprocess.Popen], memory: Memory | None = None) -> None:
        """Wait until all have ended, and sample their memory meanwhile."""
        while memory is not None and any(process.poll() is None for process in processes):
            memory.sample(processes)
            time.sleep(SAMPLE_INTERVAL_S)

        for process in processes:
            if process.wait():
                output = process.log.read_text(errors="replace")
                sys.exit(f"{shlex.join(process.args)} failed:\n{output[-3000:]}")

    def seconds(self, command: str, folder: Path, *, warm: bool = False, times: int = 1) -> float:
        """Median wall seconds of a command."""
        found = []
        for _ in range(times):
            start = time.perf_counter()
            self.wait([self.start(command, folder, warm=warm)])
            found.append(time.perf_counter() - start)
        return median(found)

    def seconds_within(self, limit_s: float, command: str, folder: Path) -> float | None:
        """Wall seconds of a command; None if it takes longer than a limit and has to be ended."""
        start = time.perf_counter()
        process = self.start(command, folder)
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            end_groups([process])
            return None
        self.wait([process])
        return time.perf_counter() - start

    def import_torch(self, times: int = 2) -> None:
        """Measure what all multiples are of, once more."""
        for _ in range(times):
            self.import_seconds.append(self.seconds('python -c "import torch"', self.base))

    def stop(self) -> None:
        """End the loaded process and whatever still runs."""
        end_groups([process for process in self.running if process.poll() is None])

        # A loaded process is in no group of ours. Its socket is in the folder.
        for process in psutil.process_iter(["cmdline", "uids"]):
            mine = process.info["uids"] and process.info["uids"].real == os.getuid()
            if mine and str(self.base) in " ".join(process.info["cmdline"] or []):
                with suppress(psutil.Error):
                    process.terminate()


def end_groups(processes: Sequence[subprocess.Popen]) -> None:
    """End commands and what they started: in peace, or by force after `GRACE_S`."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    for process in processes:
        deadline = time.monotonic() + GRACE_S
        while _signal_group(process, 0) and time.monotonic() < deadline:
            process.poll()  # or it would stay in its group
            time.sleep(POLL_INTERVAL_S)
        _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen, number: int) -> bool:
    """Signal a command and what it started; False if nothing of it is left."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def laboratory() -> Iterator[Laboratory]:
    """A laboratory of which nothing is left, however its use ends."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory(prefix="pipeline-", ignore_cleanup_errors=True) as base:
        used = Laboratory(Path(base))
        try:
            yield used
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # the clean-up is not interrupted
            used.stop()


@dataclass(frozen=True)
class Row:
    """A line of the table. A goal is a limit for the multiple, or for `figure` where it is given.

    `seconds` may be None, for what is no time.
    """

    what: str
    seconds: float | None = None
    limit: float | None = None
    figure: float | None = None
    show: Callable[[float], str] = "{:.2f}".format
    also: bool = True  # what else the goal asks for

    def line(self, unit: float) -> str:
        seconds, multiple = "", ""
        value = self.figure
        if self.seconds is not None:
            seconds, multiple = f"{self.seconds:.2f}", f"{self.seconds / unit:.2f}"
        if value is None:
            value = self.seconds / unit

        goal, verdict = "", ""
        if self.limit is not None:
            goal = f"≤ {self.show(self.limit)}"
            verdict = "met" if value <= self.limit and self.also else "not met"
        if self.figure is not None:
            multiple = self.show(self.figure)
        return f"| {self.what} | {seconds} | {multiple} | {goal} | {verdict} |"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def stage_commands(folder: Path) -> dict[str, list[str]]:
    """The commands of every stage that has run, as they were run."""
    stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    commands = {}
    for stage, entry in stages.items():
        command = entry["cmd"]
        commands[stage] = [command] if isinstance(command, str) else command
    return commands


def command_name(command: str) -> str:
    """`prune` for `PYTHONPATH=src python -m prunelab.stages prune ...`."""
    words = shlex.split(command)
    return words[words.index("prunelab.stages") + 1]


def first_commands(folder: Path) -> dict[str, str]:
    """The first command of every kind of stage that has run, by its name."""
    commands: dict[str, str] = {}
    for stage_lines in stage_commands(folder).values():
        for command in stage_lines:
            commands.setdefault(command_name(command), command)
    return commands


def cold_starts(lab: Laboratory, folder: Path, repeated: int = 3) -> dict[str, float]:
    """Seconds of the smallest command of every kind of stage, and the median for the longest."""
    commands = first_commands(folder)
    seconds = {name: lab.seconds(command, folder) for name, command in commands.items()}
    lab.import_torch()
    for name in sorted(seconds, key=seconds.get)[-repeated:]:
        others = [lab.seconds(commands[name], folder) for _ in range(2)]
        seconds[name] = median([seconds[name], *others])
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def commands_that_read(lab: Laboratory, folder: Path) -> list[Row]:
    """`prunelab check`, for the first time and again, and `prunelab list methods`."""
    shutil.rmtree(folder / ".prunelab", ignore_errors=True)  # what was checked already
    return [
        Row("`prunelab check`, first time", lab.seconds("prunelab check", folder)),
        Row("`prunelab check`, again", lab.seconds("prunelab check", folder, times=5), 0.6),
        Row("`prunelab list methods`", lab.seconds("prunelab list methods", folder, times=5), 0.6),
    ]


def whole_study(lab: Laboratory, full: Path, bare: Path) -> tuple[list[Row], list[str]]:
    """The study from nothing, the share that is no work, and what its stages take."""
    cells = sum(stage.startswith("evaluate@") for stage in resolved_stages(lab, full))
    say("the study without its work")
    start = cpu_seconds()
    overhead = lab.seconds("prunelab repro", bare, warm=True)
    overhead_cpu = cpu_seconds() - start
    lab.import_torch()
    say("the study from nothing")
    start = cpu_seconds()
    total = lab.seconds("prunelab repro", full, warm=True)
    total_cpu = cpu_seconds() - start
    lab.import_torch()

    durations, overheads = (
        json.loads((folder / ".prunelab/durations.json").read_text()) for folder in (full, bare)
    )
    lines = [
        "",
        f"CPU seconds of the study: {total_cpu:.0f}; without its work: {overhead_cpu:.0f}, "
        f"{overhead_cpu / total_cpu:.0%}.",
        "\n| stage of the study | seconds each | without its work |\n|:--|--:|--:|",
    ]
    for stage, seconds in durations.items():
        lines.append(f"| {stage} | {seconds:.2f} | {overheads[stage]:.2f} |")

    enough = cells >= 20
    title = f"`prunelab repro` from nothing, {cells} cells (20 or more)"
    share = "share of it that is neither training, evaluating nor measuring time"
    rows = [
        Row(title, total, 45, also=enough),
        Row(share, overhead, 0.2, overhead / total, "{:.0%}".format),
    ]
    return rows, lines


def cpu_seconds() -> float:
    """What all commands have taken until now, and what they started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resolved_stages(lab: Laboratory, folder: Path) -> list[str]:
    process = lab.start("dvc stage list --all --name-only", folder)
    lab.wait([process])
    return process.log.read_text().split()


def experiments(lab: Laboratory, folder: Path) -> list[Row]:
    """`dvc exp run -S ratio=0.8` in a finished study, cold and warm, and nothing to do."""
    nothing = lab.seconds("dvc repro", folder, times=3)
    lab.wait([lab.start("git add --all && git commit --quiet --message Results", folder)])

    command = "dvc exp run -S ratio=0.8"
    # As a user types it: no loaded process runs, and its first stage starts one.
    cold = lab.seconds(command, folder, warm=True)
    # Back to the study, without the memory of runs, which would make the next one a copy of files.
    back = "git checkout --quiet . && dvc checkout --quiet && rm -r .dvc/cache/runs"
    lab.wait([lab.start(back, folder)])
    lab.import_torch()

    lab.wait([lab.start("prunelab warm", folder, warm=True)])
    warm = lab.seconds(command, folder, warm=True)
    lab.wait([lab.start("prunelab warm --stop", folder, warm=True)])
    return [
        Row(f"`{command}`, cold", cold, 9),
        Row("the same with `prunelab warm`", warm, 5),
        Row("`dvc repro` with nothing to do", nothing),
    ]


def memory_of_two(lab: Laboratory, short: Path) -> tuple[Row, list[str]]:
    """Peak memory of two jobs against two separate stages, each on a core of its own."""
    say("memory of two jobs")
    together = Memory()
    command = f"prunelab repro --jobs {JOBS}"
    lab.wait([lab.start(command, short, warm=True)], together)

    cores = sorted(os.sched_getaffinity(0))
    commands = stage_commands(short)
    separate = {}
    for kind in ("prune", "finetune", "evaluate"):
        cells = [stage for stage in commands if stage.startswith(f"{kind}@")][:JOBS]
        separate[kind] = Memory()
        processes = []
        for number, cell in enumerate(cells):
            core = cores[number % len(cores)]
            processes.append(lab.start(commands[cell][0], short, core=core))
        lab.wait(processes, separate[kind])

    largest = max(separate, key=lambda kind: separate[kind].peak)
    peak = separate[largest].peak
    what = (
        f"peak memory of `{command}`, {together.peak:.0f} MiB, as a multiple of two separate "
        f"{largest} stages, {peak:.0f} MiB"
    )
    others = ", ".join(f"{kind} {memory.peak:.0f}" for kind, memory in separate.items())
    lines = [
        "",
        f"Memory at the peak of `{command}`, MiB: {together}.",
        f"Peaks of two separate stages, MiB: {others}.",
    ]
    return Row(what, limit=1.3, figure=together.peak / peak), lines


def beside_trainings(lab: Laboratory, chosen: Sequence[str]) -> None:
    """Measure the chosen stages, or all, alone and beside two trainings; print the ratios."""
    say("a study of one cell")
    study = lab.study("study", FEW_MEASUREMENTS | ONE_CELL)
    lab.wait([lab.start("prunelab repro", study, warm=True)])

    commands = first_commands(study)
    unknown = [name for name in chosen if name not in commands]
    if unknown:
        sys.exit(f"no stage {', '.join(unknown)}; valid names: {', '.join(commands)}")
    measured = {name: commands[name] for name in chosen or commands}

    alone = {}
    for name, command in measured.items():
        say(f"{name} alone")
        alone[name] = lab.seconds(command, study)

    trainings = start_trainings(lab, commands)
    print("| stage | alone, s | beside two trainings, s | ratio | goal | |")
    print("|:--|--:|--:|--:|--:|:--|", flush=True)
    for name, command in measured.items():
        say(f"{name} beside two trainings")
        seconds = lab.seconds_within(MAX_SLOWDOWN * alone[name], command, study)
        if any(training.poll() is not None for training in trainings):
            sys.exit(f"a training beside ended by itself: {trainings[0].log.read_text()[-2000:]}")
        print(busy_line(name, alone[name], seconds), flush=True)


def start_trainings(lab: Laboratory, commands: Mapping[str, str]) -> list[subprocess.Popen]:
    """Start two trainings that do not end by themselves, and wait until they take their steps."""
    say("two trainings start")
    trainings = []
    for number in range(OTHER_TRAININGS):
        other = lab.study(f"other{number}", {"train.epochs": 100_000})
        lab.wait([lab.start(commands["prepare"], other)])
        trainings.append(lab.start(commands["train_base"], other))
    time.sleep(SETTLE_S)
    return trainings


def busy_line(name: str, alone: float, beside: float | None) -> str:
    """A line of the table; `beside` is None for a stage that had to be ended."""
    if beside is None:
        limit = MAX_SLOWDOWN * alone
        took, ratio, verdict = f"over {limit:.0f}", f"over {MAX_SLOWDOWN}", "not met"
    else:
        took, ratio = f"{beside:.2f}", f"{beside / alone:.2f}"
        verdict = "met" if beside <= MAX_RATIO_BUSY * alone else "not met"
    return f"| {name} | {alone:.2f} | {took} | {ratio} | ≤ {MAX_RATIO_BUSY} | {verdict} |"


def measure(lab: Laboratory, *, quick: bool) -> None:
    """Measure everything and print the table."""
    say("byte code, and a study of one cell")
    smallest = lab.study("smallest", SMALLEST)
    lab.wait([lab.start('python -c "import torch"', smallest)])
    for command in ("prunelab repro", "prunelab check", "prunelab list methods", "dvc repro"):
        lab.wait([lab.start(command, smallest, warm=True)])
    lab.import_torch(3)

    say("commands that read, and cold stages")
    reading = commands_that_read(lab, smallest)
    starts = cold_starts(lab, smallest)
    lab.import_torch()

    rows: list[Row] = []
    details: list[str] = []
    finished = lab.study("short", SHORT)
    if quick:
        lab.wait([lab.start("prunelab repro", finished, warm=True)])
    else:
        memory, lines = memory_of_two(lab, finished)
        details += lines
        finished = lab.study("full")
        rows, lines = whole_study(lab, finished, lab.study("bare", BARE))
        details += lines

    say("experiments")
    rows += experiments(lab, finished)
    slowest = next(iter(starts))
    rows.append(Row(f"cold start of the stage that needs most, {slowest}", starts[slowest], 1.5))
    rows += reading
    if not quick:
        rows.append(memory)
    lab.import_torch(3)

    unit = median(lab.import_seconds)
    least, most = min(lab.import_seconds), max(lab.import_seconds)
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load at the end "
        f"{os.getloadavg()[0]:.1f}; `import torch`: {unit:.2f} s "
        f"({least:.2f} to {most:.2f}, {len(lab.import_seconds)} times)\n"
    )
    print("| | seconds | multiple of `import torch` | goal | |\n|:--|--:|--:|--:|:--|")
    for row in rows:
        print(row.line(unit))
    print("\n| cold start of stage | seconds | multiple |\n|:--|--:|--:|")
    for name, seconds in starts.items():
        print(f"| {name} | {seconds:.2f} | {seconds / unit:.2f} |")
    print("\n".join(details))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out the whole study and memory; experiments run in a study of fewer cells",
    )
    parser.add_argument(
        "--busy", action="store_true", help="measure every stage beside two trainings instead"
    )
    parser.add_argument(
        "--stages", nargs="+", default=[], metavar="STAGE", help="with --busy: these alone"
    )
    arguments = parser.parse_args()
    if arguments.stages and not arguments.busy:
        parser.error("--stages goes with --busy")
    with laboratory() as lab:
        if arguments.busy:
            beside_trainings(lab, arguments.stages)
        else:
            measure(lab, quick=arguments.quick)


if __name__ == "__main__":
    main()
