"""`rankwell serve`, `rankwell deploy`, `rankwell rollback`: bundles that answer over HTTP."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from rankwell.errors import MissingExtraError, RankwellError, RequestError
from rankwell.ranking.slot_exploration import SlotExploration
from rankwell.ranking.utility import Utility
from rankwell.serving.bundle import read_bundle
from rankwell.serving.deployment import write_deployment
from rankwell.serving.manifest import is_bundle, is_deployment
from rankwell.serving.rollout import Rollout, RolloutFolder

if TYPE_CHECKING:
    from rankwell.serving.http.tokens import Tokens

__all__ = ["deploy", "rollback", "serve"]

_console: Final = Console()
_ENVIRONMENT: Final = {"rank": "RANKWELL_RANK_TOKEN", "admin": "RANKWELL_ADMIN_TOKEN"}

Root = Annotated[Path, typer.Argument(help="The folder that servers follow.")]
BundleFolder = Annotated[Path, typer.Argument(help="A bundle, or what `rankwell export` made of one.")]


def serve(
    path: Annotated[Path, typer.Argument(help="What `rankwell deploy` points at; or a deployment, or a bundle.")],
    host: Annotated[str, typer.Option(help="Without tokens, this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes: about one a core.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="That one request is worked on by.")] = 1,
    features: Annotated[str | None, typer.Option(help="A folder of `rankwell features`, or redis://…")] = None,
    not_stored: Annotated[list[str] | None, typer.Option(help="With Redis: a feature that requests bring.")] = None,
    features_ms: Annotated[float, typer.Option(help="With Redis: what a request waits for it, at most.")] = 3.0,
    log: Annotated[Path | None, typer.Option(help="The folder of what is served, and of what follows.")] = None,
    tokens: Annotated[Path | None, typer.Option(exists=True, help="JSON of clients; see docs/serving.md.")] = None,
    member_key: Annotated[Path | None, typer.Option(exists=True, help="The key file, if member ids are raw.")] = None,
    action: Annotated[str | None, typer.Option(help="To rank for; by default the first.")] = None,
    utility: Annotated[Path | None, typer.Option(exists=True, help="JSON of a Utility.")] = None,
    explore: Annotated[list[int] | None, typer.Option(min=1, help="A position that explores (with --log).")] = None,
    pool: Annotated[int, typer.Option(min=1, help="From how many it is drawn.")] = 20,
    heads: Annotated[Path | None, typer.Option(exists=True, help="The bundle again: the page shows its heads.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    deadline_ms: Annotated[float, typer.Option(min=0.1, help="Of a request; the longest, too.")] = 100.0,
    max_candidates: Annotated[int, typer.Option(min=1, help="Of a request.")] = 2_000,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests in the queue of a worker.")] = 64,
    client_share: Annotated[float, typer.Option(min=0.01, max=1, help="Of the queue, for one client.")] = 1.0,
    drain_s: Annotated[float, typer.Option(min=0, help="Not ready, but answering, before the end.")] = 0.5,
) -> None:
    """Answer requests over HTTP until SIGTERM: POST /v1/rank; a page to try it at /."""
    try:
        from rankwell.serving.http.serve_settings import ServeSettings, StoreSettings
        from rankwell.serving.http.server_state import ServerLimits
        from rankwell.serving.http.supervisor import serve as serve_until_told
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "a server over HTTP needs libraries that aren't installed",
            found=error.name,
            do="pip install 'rankwell[serve]'",
        ) from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with ExitStack() as stack:
        settings = ServeSettings(
            source=_source(path, stack),
            host=host,
            port=port,
            num_workers=workers,
            num_threads=threads,
            store=None if features is None else StoreSettings(features, tuple(not_stored or ()), features_ms),
            log=log,
            tokens=_tokens(tokens),
            member_key=member_key,
            action=action,
            utility=None if utility is None else Utility.from_json(utility.read_text(encoding="utf-8")),
            exploration=SlotExploration(pool=pool) if explore is None else SlotExploration(tuple(explore), pool),
            heads=heads,
            seed=seed,
            limits=ServerLimits(
                max_candidates=max_candidates, max_waiting=max_waiting, client_share=client_share,
                deadline_ms=deadline_ms, drain_s=drain_s,
            ),
        )  # fmt: skip
        status = serve_until_told(settings, on_ready=lambda url: print(f"answering at {url}", flush=True))  # noqa: T201
    raise typer.Exit(status)


def deploy(
    root: Root,
    bundle: BundleFolder,
    canary: Annotated[float | None, typer.Option(min=0, max=1, help="For this share of the members only.")] = None,
    shadow: Annotated[float | None, typer.Option(min=0, max=1, help="Scored unseen, for this share.")] = None,
) -> None:
    """Let a bundle answer on all servers that follow a folder, once it has passed its checks."""
    if canary is not None and shadow is not None:
        raise RequestError("a bundle is on one trial", found="--canary and --shadow", do="give one of them")
    folder = RolloutFolder(root)
    with tempfile.TemporaryDirectory(prefix="rankwell-export-") as temporary:
        ready: Path = bundle
        if is_bundle(bundle) and not is_deployment(bundle):
            ready = Path(temporary) / "deployment"
            write_deployment(read_bundle(bundle), ready)
        if canary is not None or shadow is not None:
            _print(folder.try_on("canary" if canary is not None else "shadow", ready, canary or shadow or 0.0))
        else:
            _print(folder.deploy(ready))


def rollback(root: Root) -> None:
    """Let the bundle before this one answer again."""
    _print(RolloutFolder(root).rollback())


def _print(rollout: Rollout) -> None:
    for role, found in rollout.model_dump(exclude={"format_version"}, exclude_none=True).items():
        _console.print(f"{role}: {found if isinstance(found, str) else found['bundle_id']}", highlight=False)


def _source(path: Path, stack: ExitStack) -> Path:
    """The path, or a deployment of the bundle that stands there, for as long as the server runs."""
    if RolloutFolder(path).is_there or is_deployment(path) or not is_bundle(path):
        return path
    temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rankwell-export-"))) / "deployment"
    # in a process of its own: workers are forked from this one, which must have no threads of others' pools
    exporting = multiprocessing.get_context("fork").Process(target=_export, args=(path, temporary))
    exporting.start()
    exporting.join()
    if exporting.exitcode:
        raise typer.Exit(2)
    return temporary


def _export(bundle: Path, target: Path) -> None:
    try:
        write_deployment(read_bundle(bundle), target)
    except RankwellError as error:
        _console.print(f"{type(error).__name__}: {error}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _tokens(path: Path | None) -> Tokens:
    from rankwell.serving.http.tokens import Tokens

    given: dict[str, Any] = {scope: os.environ[name] for scope, name in _ENVIRONMENT.items() if os.environ.get(name)}
    return Tokens.of(given) if path is None else Tokens.read(path)
