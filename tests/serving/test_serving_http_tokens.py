from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rankwell.errors import PrivacyError
from rankwell.serving.http.refusal import RefusalError
from rankwell.serving.http.tokens import Tokens


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def status(tokens: Tokens, header: str | None, scope: str) -> int:
    try:
        tokens.client(header, scope)
    except RefusalError as error:
        return error.status
    return 200


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    content = {
        "web": {"sha256": digest("w"), "scopes": ["rank"]},
        "ops": {"sha256": digest("o").upper(), "scopes": ["rank", "admin"]},
    }
    (tmp_path / "tokens.json").write_text(json.dumps(content))
    return Tokens.read(tmp_path / "tokens.json")


@pytest.mark.parametrize(
    ("header", "rank", "admin"),
    [
        ("Bearer w", 200, 403),
        ("bearer o", 200, 200),
        ("Bearer W", 401, 401),
        ("Bearer ", 401, 401),
        ("Basic w", 401, 401),
        ("w", 401, 401),
        ("Bearer " + "w" * 10_000, 401, 401),
        ("Bearer \udce4", 401, 401),
        (None, 401, 401),
    ],
)
def test_who_may_ask_what(tokens: Tokens, header: str | None, rank: int, admin: int) -> None:
    assert (status(tokens, header, "rank"), status(tokens, header, "admin")) == (rank, admin)


def test_a_client_is_known_by_its_name(tokens: Tokens) -> None:
    assert tokens.client("Bearer o", "admin").name == "ops"


def test_without_tokens_anybody_ranks_and_nobody_deploys() -> None:
    tokens = Tokens([])
    assert (status(tokens, None, "rank"), status(tokens, "Bearer x", "admin")) == (200, 403)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"web": {"sha256": digest("w")}},
        {"web": {"sha256": "secret", "scopes": ["rank"]}},
        {"web": {"sha256": digest("w"), "scopes": ["root"]}},
        {"web": {"sha256": digest("w"), "scopes": ["rank"], "token": "secret"}},
        {"web": "secret"},
    ],
)
def test_a_file_that_holds_no_tokens_is_refused_and_not_shown(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PrivacyError) as caught:
        Tokens.read(path)
    assert "secret" not in str(caught.value)
    with pytest.raises(PrivacyError, match="can't be read"):
        Tokens.read(tmp_path / "nowhere.json")
