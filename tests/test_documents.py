"""The documents say what is: their code runs, their links and trees lead somewhere, their signatures are those in code.

In README.md, ARCHITECTURE.md and docs/*.md, every ```python block runs, in the order of the file and in a folder of its
own, where ``clicks.parquet`` (examples/make_clicks.py) lies; a block fenced as ```json NAME is written there as NAME.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

ROOT = Path(__file__).parents[1]
GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
EXECUTED = ("README.md", "ARCHITECTURE.md", *GUIDES)
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))

_BLOCK = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_QUOTED_PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|md|toml|txt))`")
_SIGNATURE = re.compile(r"^(rankwell(?:\.\w+)+)\((.*?)\)(?: ->|$| )", re.MULTILINE)
_MACHINE_PATH = re.compile(r"(?<![\w.}])/(?:home|root|work|Users|tmp|mnt|opt|private)/|\b[A-Z]:\\")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[tuple[str, str]]:
    """The name after the language, and the text, of each block of a language."""
    return [(name, body) for found, name, body in _BLOCK.findall(text_of(document)) if found == language]


@pytest.mark.parametrize("document", [d for d in EXECUTED if blocks(d, "python")])
def test_code_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clicks = runpy.run_path(str(ROOT / "examples/make_clicks.py"))["clicks"]
    pq.write_table(clicks(num_requests=1_000, seed=0), tmp_path / "clicks.parquet")
    for name, body in blocks(document, "json"):
        assert json.loads(body) is not None
        if name:
            (tmp_path / name).write_text(body, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scope: dict[str, Any] = {"__name__": "__main__"}
        for number, (_, body) in enumerate(blocks(document, "python"), 1):
            exec(compile(body, f"{document}, python block {number}", "exec"), scope)
    finally:
        torch.set_num_threads(threads)


def test_the_readme_shows_the_example_as_it_is_in_20_lines() -> None:
    example = text_of("examples/own_table.py")
    assert example in [body for _, body in blocks("README.md", "python")]
    assert len([line for line in example.splitlines() if line.strip()]) <= 20


def test_the_readme_stacks_a_transformer_in_10_lines() -> None:
    (body,) = [body for _, body in blocks("README.md", "python") if "RankingTransformer" in body]
    assert len([line for line in body.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_named_files_exist(document: str) -> None:
    text = _COMMENT.sub("", text_of(document))
    here = (ROOT / document).parent
    prose = _BLOCK.sub("", text)
    missing = []
    for target in _LINK.findall(prose):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        if not (here / path).exists() or (anchor and anchor not in anchors(here / path)):
            missing.append(target)
    for name in _QUOTED_PATH.findall(prose):
        places = (ROOT / name, ROOT / "src/rankwell" / name, here / name, ROOT / "tests/conformance" / name)
        inside_repository = name.endswith((".py", ".md", ".toml")) or (ROOT / name.split("/")[0]).exists()
        if inside_repository and not name.startswith("out/") and not any(place.exists() for place in places):
            missing.append(name)
    assert missing == []


def anchors(document: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_trees_name_what_exists(document: str) -> None:
    trees = [body for _, body in blocks(document, "text") if re.match(r"[\w.]+/", body)]
    assert trees, "no annotated tree"
    for tree in trees:
        parents: list[str] = []
        for line in tree.splitlines():
            name = line.split()[0]
            depth = (len(line) - len(line.lstrip())) // 2
            parents = [*parents[:depth], name.rstrip("/")]
            place = ROOT.joinpath(*parents)
            assert place.is_dir() if name.endswith("/") else place.is_file(), f"{place} is named in {document}"


def test_the_readme_names_every_room() -> None:
    rooms = {path.parent.name for path in ROOT.glob("src/rankwell/*/__init__.py")}
    (tree,) = [body for _, body in blocks("README.md", "text") if body.startswith("src/")]
    assert rooms <= {line.split()[0].rstrip("/") for line in tree.splitlines()}


def signatures() -> list[tuple[str, str]]:
    return [found for _, body in blocks("ARCHITECTURE.md", "text") for found in _SIGNATURE.findall(body)]


def test_architecture_names_signatures() -> None:
    assert len(signatures()) >= 10


@pytest.mark.parametrize(("name", "parameters"), signatures())
def test_signatures_are_those_of_the_code(name: str, parameters: str) -> None:
    module, _, attribute = name.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        module, _, owner = module.rpartition(".")
        found = getattr(getattr(importlib.import_module(module), owner), attribute)
    given = [parameter.partition(":")[0].partition("=")[0].strip() for parameter in parameters.split(",") if parameter]
    assert given == written(inspect.signature(found))


def written(signature: inspect.Signature) -> list[str]:
    """Parameter names as one writes them, ``*`` included and ``self`` left out."""
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in names:
            names.append("*")
        names.append(parameter.name)
    return names


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_document_names_a_place_on_one_machine(document: str) -> None:
    assert _MACHINE_PATH.findall(text_of(document)) == []


def test_the_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    ((_, drawn),) = blocks("ARCHITECTURE.md", "layers")
    assert drawn.split("\n")[:-1] == layers


@pytest.mark.parametrize("document", DOCUMENTS)
def test_nothing_is_left_to_be_filled_in(document: str) -> None:
    assert _COMMENT.findall(text_of(document)) == []
