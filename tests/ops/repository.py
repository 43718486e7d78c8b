"""What the tests here read: the files of the repository, and the pins of its locks."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def repository_files() -> list[Path]:
    """What is in the repository, or will be with the next commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")


@dataclass(frozen=True)
class Pin:
    """One line of a lock: a package at one version, where its marker holds, with the hashes of its files."""

    requirement: Requirement
    hashes: frozenset[str]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "==", f"{self.requirement} is not pinned to one version"
        return specifier.version

    def applies(self, environment: dict[str, str] | None = None) -> bool:
        """Whether it is installed there; here, by default."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate(environment)


def _logical_lines(file: Path) -> list[str]:
    """The lines without comments, those that a backslash continues joined."""
    text = re.sub(r"(^|\s)#.*", "", file.read_text()).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_lock(name: str) -> list[Pin]:
    """The pins of the lock `name`, in its order."""
    lines = _logical_lines(ROOT / name)
    return [Pin(Requirement(line.split("--hash", 1)[0]), frozenset(_HASH.findall(line))) for line in lines]


def read_direct(name: str) -> list[Requirement]:
    """The direct dependencies that the `.in` file `name` lists itself."""
    return [Requirement(line) for line in _logical_lines(ROOT / name) if not line.startswith("-")]
