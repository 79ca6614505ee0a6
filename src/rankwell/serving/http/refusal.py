"""What is answered when a request is not: a status, and the four questions that every error of ours answers."""

from __future__ import annotations

from typing import Any, final

from rankwell.errors import RankwellError

__all__ = ["RefusalError"]


@final
class RefusalError(Exception):
    """A request is refused.

    Args:
        status: Of HTTP.
        what, found, allowed, do: As of `RankwellError`.
        retry_after_s: When it may be sent again, where waiting helps.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        found: object = None,
        allowed: object = None,
        do: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(what)
        self.status, self.retry_after_s = status, retry_after_s
        self._error = RankwellError(what, found=found, allowed=allowed, do=do)

    @classmethod
    def of(cls, status: int, error: RankwellError) -> RefusalError:
        """An error of ours, with a status."""
        return cls(status, error.what, found=error.found, allowed=error.allowed, do=error.do)

    def plain(self) -> dict[str, Any]:
        """The body: problem details (RFC 9457), in which `detail` says all of it."""
        return {"status": self.status, "title": self._error.what, "detail": str(self._error)}

    def headers(self) -> dict[str, str]:
        """Besides those of every answer."""
        headers = {"retry-after": str(self.retry_after_s)} if self.retry_after_s is not None else {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        elif self.status == 405:
            headers["allow"] = str(self._error.allowed)
        return headers
