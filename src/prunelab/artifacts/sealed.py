"""The seal of safetensors files: a digest of their whole content, so a flipped bit is noticed.

Nothing here needs torch. `tensors` seals tensors of torch, and `arrays` arrays of NumPy.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from prunelab.core.errors import InputError
from prunelab.core.files import PathLike, user_path
from prunelab.core.model_files import METADATA_KEY

DIGEST_KEY = "sha256"


@dataclass(frozen=True)
class Values:
    """A tensor as the digest sees it: the name of its type in torch, its shape and its bytes."""

    dtype: str
    shape: Sequence[int]
    content: memoryview


def canonical_json(content: object) -> str:
    """JSON in one line that is the same to the byte for the same content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def sealed_metadata(metadata: Mapping[str, Any], tensors: Mapping[str, Values]) -> dict[str, str]:
    """The metadata of a file, which must be plain JSON, with the digest of its whole content."""
    content = {**metadata, DIGEST_KEY: _digest(tensors, metadata)}
    return {METADATA_KEY: canonical_json(content)}


def read_sealed(
    path: PathLike,
    framework: Literal["pt", "np"],
    values_of: Callable[[Any], Values],
    *,
    recovery_hint: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a file, as torch's (`pt`) or NumPy's (`np`), and its metadata.

    Torch's tensors are mapped from the file. No code from the file runs. Errors about a damaged
    file end with the `recovery_hint`.

    Raises:
        InputError: if the file is missing or damaged.
    """
    path = user_path(path)
    if not path.is_file():  # reading a pipe, for example, would never end
        raise InputError(f"{path} is missing; `dvc repro` makes it")

    tensors = {}
    try:
        with safe_open(path, framework=framework) as file:
            metadata, expected = _parse_metadata(path, file.metadata())
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                tensors[name] = file.get_tensor(name)
    # NumPy lacks some types of tensors.
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged: {reason}; {recovery_hint}") from None

    actual = _digest({name: values_of(tensor) for name, tensor in tensors.items()}, metadata)
    if actual != expected:
        raise InputError(
            f"{path} is damaged: SHA-256 of its content {actual}, expected {expected}; "
            f"{recovery_hint}"
        )
    return tensors, metadata


def _parse_metadata(
    path: PathLike, entries: Mapping[str, str] | None
) -> tuple[dict[str, Any], object]:
    """The metadata of a file without its digest, and the digest."""
    try:
        metadata = json.loads((entries or {})[METADATA_KEY])
        return metadata, metadata.pop(DIGEST_KEY)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise InputError(
            f"{path} is no file of prunelab: it lacks the metadata key {METADATA_KEY!r} "
            "with a digest in it"
        ) from None


def _digest(tensors: Mapping[str, Values], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of the metadata and of the names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256(canonical_json(metadata).encode())
    for name, values in sorted(tensors.items()):
        header = [name, values.dtype, list(values.shape)]
        digest.update(canonical_json(header).encode())
        digest.update(values.content)
    return digest.hexdigest()


def check_finite(path: PathLike, are_finite: Mapping[str, bool]) -> None:
    """Refuse tensors that hold NaN or infinity; the mapping says by name which do not.

    Raises:
        InputError: with their names.
    """
    names = [name for name, is_finite in are_finite.items() if not is_finite]
    if not names:
        return

    more = ""
    if len(names) > 3:
        more = f" and {len(names) - 3} more"
    raise InputError(
        f"{path}: values of {', '.join(names[:3])}{more} are not finite, but NaN or infinite"
    )
