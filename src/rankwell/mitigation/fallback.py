"""Back to the bundle before this one."""

from __future__ import annotations

from rankwell.errors import MitigationError
from rankwell.serving.rollout import Rollout, RolloutFolder

__all__ = ["fall_back"]


def fall_back(folder: RolloutFolder, *, from_bundle: str, to_bundle: str) -> Rollout:
    """Let one bundle answer in the place of another; done twice, it is done once.

    `RolloutFolder.rollback` goes to and fro: called again, it brings back the bundle that was left. So what was decided
    names both bundles, and nothing is done where they are not as it says.

    Args:
        folder: Of the servers.
        from_bundle: That answers.
        to_bundle: That answered before it.

    Raises:
        MitigationError: Others answer, or stand behind.
        BundleError: The bundle no longer passes its checks; nothing has changed.
    """
    before = folder.read()
    if before.current == to_bundle:
        return before
    if (before.current, before.previous) != (from_bundle, to_bundle):
        raise MitigationError(
            "the bundles are not those that a fallback was decided on", found=(before.current, before.previous),
            allowed=(from_bundle, to_bundle), do="look who deployed what",
        )  # fmt: skip
    return folder.rollback()
