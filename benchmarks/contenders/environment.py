"""Environments of peers: each in a folder of its own under out/peers, apart from the project's.

python benchmarks/contenders/environment.py fbgemm
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["python_of"]

_HERE = Path(__file__).parent
_PEERS = _HERE.parents[1] / "out" / "peers"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is built first where it is missing or has other versions.

    Its requirements stand beside this file, in ``<peer>.txt``.
    """
    requirements, folder = _HERE / f"{peer}.txt", _PEERS / peer
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = requirements.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"building {folder.relative_to(_PEERS.parents[1])}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-r"]
        subprocess.run([*install, str(requirements)], check=True)
        stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(python_of(name))
