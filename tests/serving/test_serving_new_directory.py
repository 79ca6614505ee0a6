from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from rankwell.serving.new_directory import NewDirectory, WrittenFile, displaced, hash_file

LARGE = bytes(range(256)) * 10_000  # several blocks of writing, and not a whole number of them


def write(target: Path, text: bytes) -> None:
    with NewDirectory.beside(target) as directory:
        directory.write("a.txt", text)
        directory.write("b/c.txt", text * 2)
        directory.put_in_place()


def content(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_what_was_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "x", b"one")
    assert content(tmp_path / "x") == {"a.txt": b"one", "b/c.txt": b"oneone"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_new_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    write(tmp_path / "x", b"one")
    (tmp_path / "x" / "stray").touch()
    write(tmp_path / "x", b"two")
    assert content(tmp_path / "x") == {"a.txt": b"two", "b/c.txt": b"twotwo"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_directory_not_put_in_place_is_gone(tmp_path: Path) -> None:
    with NewDirectory.beside(tmp_path / "x") as directory:
        directory.write("a.txt", b"one")
    assert list(tmp_path.iterdir()) == []


def test_sizes_and_checksums_are_those_of_the_bytes(tmp_path: Path) -> None:
    with NewDirectory.beside(tmp_path / "x") as directory:
        with directory.open("large") as file:
            assert file.write(LARGE) == len(LARGE)
            assert file.write(b"") == 0
            assert file.tell() == len(LARGE)
        directory.write("none", b"")
        expected = {
            "large": WrittenFile(len(LARGE), hashlib.sha256(LARGE).hexdigest()),
            "none": WrittenFile(0, hashlib.sha256(b"").hexdigest()),
        }
        assert directory.written == expected
        assert {name: hash_file(directory.path / name) for name in expected} == expected


@pytest.mark.parametrize("num_renames", [0, 1])
def test_a_failing_swap_puts_the_old_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_renames: int
) -> None:
    write(tmp_path / "x", b"one")
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == num_renames + 1:
            raise OSError(errno.EACCES, "refused")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="refused"):
        write(tmp_path / "x", b"two")
    assert content(tmp_path / "x") == {"a.txt": b"one", "b/c.txt": b"oneone"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


DIES_IN_THE_SWAP = """
import os, sys
from pathlib import Path
from rankwell.serving.new_directory import NewDirectory

rename = Path.rename
Path.rename = lambda self, target: os._exit(9) if ".new-" in self.name else rename(self, target)
with NewDirectory.beside(Path(sys.argv[1])) as directory:
    directory.write("a.txt", b"two")
    directory.put_in_place()
"""


def test_a_swap_cut_off_leaves_the_old_directory_beside_and_the_next_swap_clears_it(tmp_path: Path) -> None:
    write(tmp_path / "x", b"one")
    died = subprocess.run([sys.executable, "-c", DIES_IN_THE_SWAP, tmp_path / "x"], check=False)
    assert died.returncode == 9
    (old,) = displaced(tmp_path / "x")
    assert content(old) == {"a.txt": b"one", "b/c.txt": b"oneone"}
    assert not (tmp_path / "x").exists()

    write(tmp_path / "x", b"three")
    assert displaced(tmp_path / "x") == []
    assert content(tmp_path / "x")["a.txt"] == b"three"
