"""Members become pseudonyms: a keyed hash, so that a log alone says nothing about who a member is.

Whoever holds the key can link a pseudonym to a known id, and nobody else can; losing the key cuts every new log off
from the old ones. So the key lies in a file of its owner's, outside the repository and outside every log and bundle.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final, NoReturn, final

import pyarrow as pa

from rankwell.data.string_ids import dictionary_of, is_stringlike, take_ids
from rankwell.errors import LogError, PrivacyError

__all__ = ["PseudonymKey", "create_key", "pseudonymise", "read_key"]

_NUM_KEY_BYTES: Final = 32
_LONGEST_KEY: Final = 4096
_FEWEST_DISTINCT_BYTES: Final = 8
_PURPOSE: Final = b"rankwell.member"


@final
class PseudonymKey:
    """The secret of pseudonyms. It is never printed, pickled or written; make one with `create_key` or `read_key`.

    Args:
        secret: 32 to 4,096 random bytes.

    Raises:
        PrivacyError: The secret is too short, too long, or plainly not random.

    >>> PseudonymKey(bytes(range(32)))
    PseudonymKey(<hidden>)
    """

    __slots__ = ("_derived",)

    def __init__(self, secret: bytes) -> None:
        _check_secret(secret, "the pseudonym key")
        self._derived = blake2b(secret, digest_size=_NUM_KEY_BYTES, person=_PURPOSE).digest()

    def digest(self, data: bytes) -> bytes:
        """8 bytes of BLAKE2b over `data`, keyed with this key."""
        return blake2b(data, digest_size=8, key=self._derived, person=_PURPOSE).digest()

    def __repr__(self) -> str:
        return "PseudonymKey(<hidden>)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise PrivacyError(
            "a pseudonym key can't be pickled or copied", do="pass the key file's path and read it there"
        )


def create_key(path: str | Path) -> PseudonymKey:
    """Write 32 random bytes to a new file that only its owner may read, and return the key.

    Raises:
        PrivacyError: The file exists already (members would get new pseudonyms), or can't be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     create_key(f"{folder}/member.key")
    PseudonymKey(<hidden>)
    """
    path = Path(path)
    secret = secrets.token_bytes(_NUM_KEY_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise PrivacyError(
            f"the key file {str(path)!r} exists already",
            do="read it with read_key; a new key gives every member a new pseudonym, so choose another path for one",
        ) from None
    except OSError as error:
        raise PrivacyError(
            f"the key file {str(path)!r} can't be created",
            found=error.strerror,
            do="choose a folder that you may write to",
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    return PseudonymKey(secret)


def read_key(path: str | Path) -> PseudonymKey:
    """The key that lies in a file: its bytes as they are, a line's end included.

    Raises:
        PrivacyError: The file is missing, others than its owner may open it, or its bytes are no key.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            secret = file.read(_LONGEST_KEY + 1)
    except FileNotFoundError:
        raise PrivacyError(
            f"there is no key file {str(path)!r}", do="make one with rankwell.data.pseudonyms.create_key(path)"
        ) from None
    except OSError as error:
        raise PrivacyError(
            f"the key file {str(path)!r} can't be read", found=error.strerror, do="correct the path, or its owner"
        ) from None
    if os.name == "posix" and mode & 0o077:
        raise PrivacyError(
            f"the key file {str(path)!r} is open to others than its owner",
            found=f"mode {mode:o}",
            allowed="mode 600 or 400",
            do=f"chmod 600 {path}",
        )
    _check_secret(secret, f"the key file {str(path)!r}")
    return PseudonymKey(secret)


def pseudonymise(ids: pa.Array | pa.ChunkedArray, key: PseudonymKey) -> pa.Array:
    """The pseudonym of each member: BLAKE2b keyed with `key` over the id, cut to 63 bits.

    Under one key a member always gets the same pseudonym; under two keys the pseudonyms are unlinkable. The width of
    an integer doesn't matter, but the integer 7 and the string "7" are two members: write ids the same way in every
    log. Each distinct id is hashed once. Two of n members share a pseudonym with probability ≈ n² / 2⁶⁴.

    Args:
        ids: Integers ≥ 0, strings, bytes, or a dictionary of strings.
        key: The secret.

    Returns:
        int64 in [0, 2⁶³), null where `ids` is null.

    Raises:
        LogError: The ids are of another type, or negative.

    >>> key = PseudonymKey(bytes(range(32)))
    >>> members = pseudonymise(pa.array([7, 8, None, 7]), key).to_pylist()
    >>> members[0] == members[3] != members[1], members[2]
    (True, None)

    Source: Aumasson et al. 2013, "BLAKE2: simpler, smaller, fast as MD5", §2.9 (keyed hashing).
    """
    if pa.types.is_null(ids.type):
        return pa.nulls(len(ids), pa.int64())
    if is_stringlike(ids.type):
        codes, values = dictionary_of(ids)
        return take_ids(b"".join([key.digest(b"s" + value) for value in values]), codes)
    value_type = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    if not pa.types.is_integer(value_type):
        raise LogError(
            "member ids must be integers or strings",
            found=str(ids.type),
            allowed="integer, string",
            do="cast the column where it comes from",
        )
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    encoded = ids.cast(value_type).dictionary_encode()
    numbers: list[int] = encoded.dictionary.to_pylist()
    if numbers and min(numbers) < 0:
        # The id itself stays out of the message: messages end up in logs.
        raise LogError(
            "member ids must be 0 or more",
            found=f"{sum(number < 0 for number in numbers)} distinct negative ids",
            do="write null where the member is unknown, if the schema allows it, or drop those rows",
        )
    digests = b"".join([key.digest(b"i" + number.to_bytes(8, "little")) for number in numbers])
    return take_ids(digests, encoded.indices)


def _check_secret(secret: bytes, where: str) -> None:
    if not _NUM_KEY_BYTES <= len(secret) <= _LONGEST_KEY:
        found = f"more than {_LONGEST_KEY} bytes" if len(secret) > _LONGEST_KEY else f"{len(secret)} bytes"
        raise PrivacyError(
            f"{where} has the wrong length",
            found=found,
            allowed=f"{_NUM_KEY_BYTES} to {_LONGEST_KEY} random bytes",
            do="make a key with rankwell.data.pseudonyms.create_key(path)",
        )
    if len(set(secret)) < _FEWEST_DISTINCT_BYTES:
        raise PrivacyError(
            f"{where} isn't random: it repeats a few bytes",
            do="make a key with rankwell.data.pseudonyms.create_key(path)",
        )
