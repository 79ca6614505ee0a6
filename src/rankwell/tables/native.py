"""The door to the compiled extension ``rankwell.tables._native`` of ``cpp/``, which may be absent.

It makes tables faster and nothing else: whatever it does, the plain form in PyTorch does too, and is what it is tested
against. It is absent where the package was installed without a compiler, on a processor older than it was compiled
for, and where the environment says so: ``RANKWELL_NATIVE=0`` goes without, ``RANKWELL_NATIVE=FILE`` takes another
build of it (``make sanitize``). The variable is read once, on import.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shlex
import sys
import warnings
from importlib import metadata, resources
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rankwell.errors import RankwellWarning

__all__ = ["native", "warn_if_absent", "why_absent"]

_NAME: Final = "rankwell.tables._native"


def _imported() -> tuple[Any | None, str]:
    """The extension, or the reason why there is none."""
    choice = os.environ.get("RANKWELL_NATIVE", "")
    if choice == "0":
        return None, "RANKWELL_NATIVE=0 is set"
    if choice not in (
        "",
        "1",
    ):  # a build of one's own is wanted, not a silent substitute: whatever fails here is raised
        return _imported_from(choice), ""
    try:
        return importlib.import_module(_NAME), ""
    except ModuleNotFoundError:
        return None, _reason_at_install()
    except ImportError as error:
        return None, str(error)


def _imported_from(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(_NAME, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"RANKWELL_NATIVE names no extension: {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[_NAME] = module
    return module


def _reason_at_install() -> str:
    """What CMakeLists.txt left beside the package; it leaves nothing where compiling itself failed."""
    try:
        return resources.files(__package__).joinpath("_native_absent.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return "it was not built when rankwell was installed (add --verbose to the command below to see why)"


_FOUND: Final = _imported()
native: Final[Any | None] = _FOUND[0]
_warned = False


def why_absent() -> str:
    """Why ``native`` is None, as half a sentence; empty where it is not.

    Example:
        >>> (native is None) == bool(why_absent())
        True
    """
    return _FOUND[1]


def _reinstall_command() -> str:
    """What builds the extension again for this interpreter, from where rankwell was installed."""
    source = "rankwell"
    try:
        recorded = json.loads(metadata.distribution("rankwell").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        recorded = {}
    if "dir_info" in recorded:
        folder = shlex.quote(url2pathname(urlsplit(recorded["url"]).path))
        source = f"-e {folder}" if recorded["dir_info"].get("editable") else folder
    return f"{shlex.quote(sys.executable)} -m pip install --no-deps --force-reinstall --no-cache-dir {source}"


def warn_if_absent() -> None:
    """Says once, where the extension is absent though nobody asked for that, what is lost and how to get it.

    Example:
        >>> warn_if_absent()
    """
    global _warned
    if native is not None or _warned or os.environ.get("RANKWELL_NATIVE") == "0":
        return
    _warned = True
    warnings.warn(
        f"tables run without their compiled extension: {why_absent()}. Results are the same up to rounding; a step of "
        "a table is 6 to 16 times slower;\n    what to do: where it could not be built, install a C++20 compiler "
        f"(GCC 11, Clang 14 or newer; on Debian: apt-get install g++), then run {_reinstall_command()}",
        RankwellWarning,
        stacklevel=3,
    )
