"""Who may ask what: bearer tokens, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, final

from rankwell.errors import PrivacyError
from rankwell.serving.http.refusal import RefusalError

__all__ = ["SCOPES", "Client", "Tokens"]

SCOPES: Final = ("rank", "admin")
_BEARER: Final = "bearer "
_LONGEST: Final = 4096


@final
@dataclass(frozen=True, slots=True)
class Client:
    """Whoever holds a token.

    Args:
        name: For metrics and shares of the queue; never a secret.
        scopes: What it may ask: "rank" (requests and actions), "admin" (deploy and roll back).
        sha256: Of its token, in hexadecimal.
    """

    name: str
    scopes: frozenset[str]
    sha256: str


@final
class Tokens:
    """Tells clients by their tokens. A token is compared with all hashes, each in constant time.

    Args:
        clients: Their names and hashes; none: anybody may rank, and nobody is an administrator.

    >>> tokens = Tokens([Client("web", frozenset({"rank"}), hashlib.sha256(b"secret").hexdigest())])
    >>> tokens.client("Bearer secret", "rank").name
    'web'
    >>> tokens.client("Bearer guess", "rank")
    Traceback (most recent call last):
    rankwell.serving.http.refusal.RefusalError: the token is not known
    """

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients

    @property
    def is_open(self) -> bool:
        """Whether there are none."""
        return not self._clients

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The clients of a file: ``{"web": {"sha256": "…", "scopes": ["rank"]}}``.

        Raises:
            PrivacyError: It cannot be read, or is none.
        """
        try:
            return cls(_clients(json.loads(Path(path).read_bytes())))
        except OSError as error:
            raise PrivacyError(
                f"the token file {str(path)!r} can't be read", found=error.strerror, do="name another"
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError):  # no message shows what stands there: it is a secret
            raise PrivacyError(
                f"the file {str(path)!r} holds no tokens",
                allowed='{"NAME": {"sha256": "64 hexadecimal digits", "scopes": ["rank", "admin"]}}',
                do="write the SHA-256 of each token, as `printf %s TOKEN | sha256sum` prints it",
            ) from None

    @classmethod
    def of(cls, secrets: Mapping[str, str]) -> Self:
        """The clients of plain tokens by scope, as an environment holds them."""
        return cls(
            [
                Client(scope, frozenset({scope}), hashlib.sha256(secret.encode()).hexdigest())
                for scope, secret in secrets.items()
            ]
        )

    def client(self, header: str | None, scope: str) -> Client:
        """The client of an Authorization header.

        Raises:
            RefusalError: 401 without a known token, 403 where its scopes lack this one.
        """
        if self.is_open:
            if scope != "rank":
                raise RefusalError(
                    403,
                    "this server has no tokens, and so no administrators",
                    do="start it with a token of scope admin",
                )
            return Client("anybody", frozenset({"rank"}), "")
        if header is None or header[: len(_BEARER)].lower() != _BEARER:
            raise RefusalError(
                401, "there is no bearer token", allowed="Authorization: Bearer TOKEN", do="send a token"
            )
        digest = hashlib.sha256(header[len(_BEARER) :][:_LONGEST].strip().encode("utf-8", "replace")).hexdigest()
        found = None
        for client in self._clients:  # all of them, whichever fits
            if hmac.compare_digest(client.sha256, digest):
                found = client
        if found is None:
            raise RefusalError(401, "the token is not known", do="send one that this server was started with")
        if scope not in found.scopes:
            raise RefusalError(
                403, f"the token has no scope {scope!r}", found=sorted(found.scopes), do="use another token"
            )
        return found


def _clients(content: object) -> list[Client]:
    if not isinstance(content, dict) or not content:
        raise ValueError
    clients = []
    for name, entry in content.items():
        scopes, digest = frozenset(entry["scopes"]), entry["sha256"]
        if not scopes <= set(SCOPES) or set(entry) != {"scopes", "sha256"} or len(bytes.fromhex(digest)) != 32:
            raise ValueError
        clients.append(Client(name, scopes, digest.lower()))
    return clients
