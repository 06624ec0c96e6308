"""Commands for backups: making, listing, checking, pruning and restoring them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from ragweave.backups.errors import BackupDamaged, BackupError
from ragweave.backups.manifest import Manifest
from ragweave.backups.places import Places
from ragweave.backups.restoring import Restorer
from ragweave.backups.shelf import Shelf
from ragweave.backups.taking import Taker
from ragweave.backups.verifying import verify as check
from ragweave.cli.console import app, command, err, fail, layout, out
from ragweave.local.layout import Layout
from ragweave.local.supervisor import MeshRuns, kept_down, supervisor_pid

backup = typer.Typer(help="Backups of everything the mesh keeps: make, list, verify, prune; docs/backup.md.")
app.add_typer(backup, name="backup")

Name = Annotated[str, typer.Argument(help="As `ragweave backup list` names it; `latest` is the newest.")]


@backup.callback(invoke_without_command=True)
def make(context: typer.Context) -> None:
    """Make a backup, while the mesh works or while it is down."""
    if context.invoked_subcommand is not None:
        return
    here = layout()
    with _told():
        made = _made_by_mesh(here) if supervisor_pid(here) else _made_at_rest(here)
        manifest = Shelf(here.backups).manifest(made)
    out.print(f"{here.backups / made}", soft_wrap=True)
    out.print(
        f"{_size(manifest.disk_bytes)}, {_size(manifest.copied_bytes)} of it new; {len(manifest.collections)} "
        f"collections; {manifest.took_s:.1f} s, in which writes waited {manifest.held_s * 1000:.0f} ms"
    )
    for part, why in manifest.left_out.items():
        out.print(f"[yellow]not in it[/]: {part} ({why})", soft_wrap=True)


@command("list", group=backup)
def list_() -> None:
    """List the backups, the oldest first."""
    shelf = Shelf(layout().backups)
    table = Table(box=None, pad_edge=False)
    for column in ("BACKUP", "AGE", "COLLECTIONS", "DOCUMENTS", "SIZE", "NEW", "VERSION"):
        table.add_column(column, justify="left" if column in ("BACKUP", "VERSION") else "right")
    for name in shelf.names():
        try:
            each = shelf.manifest(name)
        except BackupDamaged as error:
            table.add_row(name, "", "", "", "", "", f"[red]{error}[/]")
            continue
        documents = sum(collection.documents for collection in each.collections)
        sizes = (_size(each.disk_bytes), _size(each.copied_bytes))
        table.add_row(name, _age(each), str(len(each.collections)), str(documents), *sizes, each.version)
    out.print(table)


@command(group=backup)
def verify(name: Name = "latest") -> None:
    """Read a backup whole, and check that it is what was written."""
    shelf = Shelf(layout().backups)
    with _told():
        manifest = shelf.manifest(name)
        with _bar("checking", manifest.bytes) as read:
            check(shelf.folder / manifest.name, manifest, read=read)
    out.print(f"{manifest.name}: {len(manifest.files)} files, {_size(manifest.bytes)}: as they were written")


@command(group=backup)
def prune(
    daily: Annotated[int, typer.Option(help="Days of which the last backup stays.", min=0)] = 7,
    weekly: Annotated[int, typer.Option(help="Weeks of which the last backup stays.", min=0)] = 4,
) -> None:
    """Delete backups that need not stay. The newest always stays."""
    shelf = Shelf(layout().backups)
    with _told(), shelf.working():
        pruned = shelf.prune(daily=daily, weekly=weekly)
    out.print(f"deleted {len(pruned)}: {', '.join(pruned)}" if pruned else "nothing to delete", soft_wrap=True)


@command()
def restore(
    name: Name,
    into: Annotated[
        Path | None, typer.Option(help="An empty folder to restore into, instead of the mesh's data folder.")
    ] = None,
) -> None:
    """Put a backup in the place of what the mesh keeps, which is kept beside it. The mesh must be down."""
    here = layout()
    shelf = Shelf(here.backups)
    with _told():
        manifest = shelf.manifest(name)
        if into is None:
            with kept_down(here):
                _restore(shelf, manifest, Places.read(here.data, {**os.environ, **here.environment()}))
            return
        if into.exists() and any(into.iterdir()):
            raise BackupError(f"{into} is not empty")
        _restore(shelf, manifest, Places.read(into.absolute(), {}))


def _restore(shelf: Shelf, manifest: Manifest, places: Places) -> None:
    with _bar("checking", manifest.bytes) as read:
        done = Restorer(shelf, places, say=lambda doing: err.print(doing), read=read).restore(manifest.name)
    out.print(f"{manifest.name} is restored into {places.data}; it is of {manifest.time}", soft_wrap=True)
    for path in done.aside:
        out.print(f"what was there before: {path}", soft_wrap=True)
    if done.erased:
        out.print(f"deleted since, so erased again when the mesh starts: {', '.join(done.erased)}", soft_wrap=True)
    if done.unerased:
        fail(f"deleted since the backup, but there again now: delete these tenants again: {', '.join(done.unerased)}")


def _made_by_mesh(here: Layout) -> str:
    """The name of a backup that a process of the mesh makes: the index is retrieval's alone while that runs."""
    environment = {**os.environ, **here.environment()}
    command = [sys.executable, "-m", "services.system.backup"]
    with (
        err.status("making a backup") as status,
        subprocess.Popen(command, env=environment, cwd=here.root, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            match json.loads(line):
                case {"doing": str(doing)}:
                    status.update(doing)
                case {"made": str(name)}:
                    return name
                case {"failed": str(why)}:
                    raise BackupError(why)
    raise BackupError(f"the process that makes backups ended with {process.returncode}")


def _made_at_rest(here: Layout) -> str:
    places = Places.read(here.data, {**os.environ, **here.environment()})
    with kept_down(here), err.status("making a backup") as status:
        taker = Taker(Shelf(here.backups), places, None, say=lambda doing: status.update(doing))
        return asyncio.run(taker.take()).name


@contextmanager
def _told() -> Iterator[None]:
    """Ends with one sentence where a backup cannot be made or used."""
    try:
        yield
    except (BackupError, MeshRuns) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


@contextmanager
def _bar(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(TextColumn(doing), BarColumn(), DownloadColumn(), console=err, transient=True) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda read: bar.advance(task, read)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _age(manifest: Manifest) -> str:
    hours = (datetime.now(UTC) - manifest.moment).total_seconds() / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
