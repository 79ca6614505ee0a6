"""A page as a browser without a screen shows it: its document after scripts have run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["opened"]


def opened(url: str, profile: Path, *, size: str = "1100,900", budget_ms: int = 0, timeout_s: float = 120) -> str:
    """The document, as HTML; skips the test where there is no browser.

    Args:
        url: Of the page.
        profile: A folder of the browser's own, empty or not there.
        size: Width and height of the window.
        budget_ms: How long scripts may run, in virtual time: it stands still while an answer is waited for.
        timeout_s: After which it has failed.
    """
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no browser on this machine: apt-get install chromium, and this test opens the page in it")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={profile}",
        *([f"--virtual-time-budget={budget_ms}"] if budget_ms else []), f"--window-size={size}", "--dump-dom", url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True).stdout
