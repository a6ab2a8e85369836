"""Packages from anywhere: only files that the description names are unpacked, and nothing that should not be there."""

from __future__ import annotations

import hashlib
import json
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from package_maker import described

from parfocal.client import packages
from parfocal.client.bioimageio import _yaml
from parfocal.client.packages import is_package, unpack
from parfocal.runtime.errors import InvalidInputError

FILES = {"test_input.npy": b"in", "test_output.npy": b"out", "a.h5": b"weights", "config.json": b"{}"}
CONTENT = described(weights={"keras_hdf5": "a.h5"}, attachments=["config.json"])


def zipped(path: Path, content: Any = None, files: Mapping[str, bytes] = FILES, inside: str = "") -> Path:
    """Write a package; `content` is the description, or its text."""
    text = content if isinstance(content, str) else json.dumps(CONTENT if content is None else content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{inside}rdf.yaml", text)
        for name, data in files.items():
            archive.writestr(f"{inside}{name}", data)
    return path


def changed(**values: Any) -> dict[str, Any]:
    return {**CONTENT, **values}


def with_weights(source: str, **more: Any) -> dict[str, Any]:
    return changed(weights={"keras_hdf5": {"source": source, **more}})


@pytest.mark.parametrize("inside", ["", "model-1/"])
def test_a_zip_file_and_a_folder_are_unpacked_alike(tmp_path: Path, inside: str) -> None:
    archive = zipped(
        tmp_path / "a.zip", files={**FILES, "code.py": b"raise SystemExit", "more/b.npy": b""}, inside=inside
    )
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "folder")
    for number, source in enumerate((archive, tmp_path / "folder" / inside)):
        assert is_package(source)
        target = tmp_path / f"target{number}"
        package = unpack(source, target)
        found = {path.name: path.read_bytes() for path in (target / "files").rglob("*")}
        # What the description does not name stays where it is.
        assert found == FILES
        assert package.description.weights == {"keras_hdf5": "a.h5"}
        assert package.attachment("config.json") == target / "files" / "config.json"


def test_what_is_no_package_is_known(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.zip").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("data.pkl", b"")
        archive.writestr("deep/er/rdf.yaml", b"")
    for name in ("folder", "text.zip", "other.zip"):
        assert not is_package(tmp_path / name)
        with pytest.raises(InvalidInputError, match=name):
            unpack(tmp_path / name, tmp_path / "target")


@pytest.mark.parametrize(
    "name",
    ["../a.h5", "/etc/passwd", "a/../../b", "C:\\a.h5", "a\\..\\b", "a//b", ".", "sub/", "https://example.org/a.h5"],
)
def test_names_that_leave_the_package_are_refused(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "a.zip", with_weights(name), {**FILES, name: b"out of it"})
    with pytest.raises(InvalidInputError):
        unpack(archive, tmp_path / "in" / "target")
    assert not list(tmp_path.glob("*.h5"))
    assert {path.name for path in (tmp_path / "in" / "target").rglob("*") if path.is_file()} <= {
        *("description.json", "test_input.npy", "test_output.npy", "config.json")
    }


def test_links_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", files={name: data for name, data in FILES.items() if name != "a.h5"})
    link = zipfile.ZipInfo("a.h5")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidInputError, match=r"a\.h5 .*link"):
        unpack(path, tmp_path / "target")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in {**FILES, "rdf.yaml": json.dumps(CONTENT).encode()}.items():
        (folder / name).write_bytes(data)
    (folder / "a.h5").unlink()
    (folder / "a.h5").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInputError, match=r"a\.h5 .*link"):
        unpack(folder, tmp_path / "second")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.h5").write_bytes(b"x")
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    (folder / "rdf.yaml").write_text(json.dumps(with_weights("sub/a.h5")))
    with pytest.raises(InvalidInputError, match="link"):
        unpack(folder, tmp_path / "third")


def test_files_that_are_not_the_described_ones_are_refused(tmp_path: Path) -> None:
    good = hashlib.sha256(FILES["a.h5"]).hexdigest()
    unpack(zipped(tmp_path / "good.zip", with_weights("a.h5", sha256=good)), tmp_path / "good")
    with pytest.raises(InvalidInputError, match="SHA-256"):
        unpack(zipped(tmp_path / "bad.zip", with_weights("a.h5", sha256="0" * 64)), tmp_path / "bad")
    with pytest.raises(InvalidInputError, match=r"b\.h5.*not in the package"):
        unpack(zipped(tmp_path / "lacks.zip", with_weights("b.h5")), tmp_path / "lacks")


def test_a_bomb_is_stopped_while_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_MOST_BYTES", 2**22)
    archive = zipped(tmp_path / "a.zip", files={**FILES, "a.h5": bytes(2**24)})
    assert archive.stat().st_size < 2**16
    with pytest.raises(InvalidInputError, match="larger than"):
        unpack(archive, tmp_path / "target")
    assert (tmp_path / "target" / "files" / "a.h5").stat().st_size <= 2**22
    monkeypatch.setattr(packages, "_MOST_MEMBERS", 3)
    with pytest.raises(InvalidInputError, match="more than 3 files"):
        unpack(archive, tmp_path / "second")


def _repeated() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch /tmp/parfocal-was-here']",
        "a: !!python/name:os.system",
        "a: !!binary aGVsbG8=",
        "a: !!set {1, 2}",
        "a: &a [*a]",
        _repeated(),
        "[" * 5000,
        "{" * 200 + "}" * 200,
        "a: [1",
        "- 1",
        "",
        "a: !!int ''",
        "a: !!bool maybe",
        f"a: {'9' * 5000}",
        "a: 2024-13-45",
        "? [1, 2]\n: 3",
        "a: \x00",
        "x" * (2**20 + 1),
    ],
    ids=range(18),
)
def test_a_description_that_is_no_plain_text_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError):
        unpack(zipped(tmp_path / "a.zip", text), tmp_path / "target")
    assert not Path("/tmp/parfocal-was-here").exists()


def test_dates_and_repeated_parts_of_a_description_are_read(tmp_path: Path) -> None:
    text = yaml.safe_dump({**CONTENT, "timestamp": "x"}).replace("timestamp: x", "timestamp: 2024-05-01T10:00:00Z")
    text += "\nshared: &shared [1, 2]\nagain: *shared\n"
    unpack(zipped(tmp_path / "a.zip", text), tmp_path / "target")
    content = json.loads((tmp_path / "target" / "description.json").read_text())
    assert content["timestamp"].startswith("2024-05-01T10:00:00")
    assert content["again"] == [1, 2]


@pytest.mark.parametrize("spoil", [lambda data: data[:-30], lambda data: data[:40] + bytes(60) + data[100:]])
def test_damaged_archives_are_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    archive = zipped(tmp_path / "a.zip")
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(InvalidInputError):
        unpack(archive, tmp_path / "target")


def test_what_a_package_is_written_as_is_what_yaml_reads() -> None:
    content = {
        "numbers": [1e-05, 1.5, 3e20, 0.1 + 0.2, 7, True, None, -1e-300],
        "texts": ["y", "1e-05", "\u03bcm", "\U0001f52c", "a\x85b\u2028c\x7f", 'say "no"', "\ufeff", "- a: b"],
        "y": {"n": {}, "list": [], "deep": [[1], {"a": "b"}]},
    }
    assert yaml.safe_load("\n".join(_yaml(content))) == content
