from __future__ import annotations

import os

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankwell.data.files import FileCache, find_files, open_parquet
from rankwell.errors import LogError


def remote(name, content):
    url = f"memory://far/{name}"
    with fsspec.open(url, "wb") as file:
        file.write(content)
    return url


def used_at(path, seconds):
    os.utime(path, (seconds, seconds))


def test_a_copy_is_made_once_and_has_the_content(tmp_path):
    url = remote("one.bin", b"0123456789")
    cache = FileCache(tmp_path / "cache", 100)
    copy = cache.fetch(url)
    assert copy is not None
    assert copy.read_bytes() == b"0123456789"
    used_at(copy, 1)
    assert cache.fetch(url) == copy
    assert copy.stat().st_mtime > 1  # its use was noted
    assert list((tmp_path / "cache").iterdir()) == [copy]


def test_the_least_recently_used_goes_first(tmp_path):
    urls = [remote(f"{i}.bin", bytes(40)) for i in range(3)]
    cache = FileCache(tmp_path, 100)
    copies = [cache.fetch(url) for url in urls[:2]]
    used_at(copies[0], 2)
    used_at(copies[1], 1)
    third = cache.fetch(urls[2])
    assert set(tmp_path.iterdir()) == {copies[0], third}
    assert cache.num_bytes == 80


def test_never_larger_than_allowed(tmp_path):
    cache = FileCache(tmp_path, 100)
    for i, size in enumerate([60, 100, 30, 30, 50, 99, 1]):
        cache.fetch(remote(f"sized{i}.bin", bytes(size)))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 100


def test_a_file_larger_than_the_cache_is_read_from_afar(tmp_path):
    with fsspec.open("memory://far/big.parquet", "wb") as file:
        pq.write_table(pa.table({"x": list(range(1000))}), file)
    cache = FileCache(tmp_path, 10)
    assert cache.fetch("memory://far/big.parquet") is None
    with open_parquet("memory://far/big.parquet", cache) as parquet:
        assert parquet.read()["x"].to_pylist() == list(range(1000))
    assert list(tmp_path.iterdir()) == []


def test_a_file_written_anew_is_copied_anew(tmp_path):
    cache = FileCache(tmp_path, 100)
    assert cache.fetch(remote("changing.bin", b"old")).read_bytes() == b"old"
    assert cache.fetch(remote("changing.bin", b"newer")).read_bytes() == b"newer"


def test_a_copy_that_broke_off_leaves_nothing(tmp_path, monkeypatch):
    url = remote("breaks.bin", b"12345")
    file_system = fsspec.filesystem("memory")

    class Breaking:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def read(self, size):
            raise OSError("connection lost")

    with monkeypatch.context() as patched:
        patched.setattr(type(file_system), "open", lambda self, path, mode: Breaking())
        with pytest.raises(OSError, match="connection lost"):
            FileCache(tmp_path, 100).fetch(url)
    assert list(tmp_path.iterdir()) == []
    assert FileCache(tmp_path, 100).fetch(url).read_bytes() == b"12345"


def test_a_log_read_through_the_cache(tmp_path):
    with fsspec.open("memory://far/small.parquet", "wb") as file:
        pq.write_table(pa.table({"x": [1, 2]}), file)
    cache = FileCache(tmp_path, 10**6)
    for _ in range(2):
        with open_parquet("memory://far/small.parquet", cache) as parquet:
            assert parquet.read()["x"].to_pylist() == [1, 2]
    assert len(list(tmp_path.iterdir())) == 1


def test_files_are_found_in_order(tmp_path):
    for name in ("b.parquet", "a.parquet", "c.txt"):
        (tmp_path / name).touch()
    assert [path.rsplit("/", 1)[1] for path in find_files(tmp_path)] == ["a.parquet", "b.parquet"]
    assert find_files(f"file://{tmp_path}/b.parquet") == (str(tmp_path / "b.parquet"),)


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(LogError, match="the log has no files"):
        find_files([])
    with pytest.raises(LogError, match="'nosuch://x/y' cannot be opened"):
        find_files("nosuch://x/y")
    with pytest.raises(LogError, match="is not there"):
        open_parquet(str(tmp_path / "gone.parquet"))
