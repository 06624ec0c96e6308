"""Commands for whole tenants: what they may keep, taking all of it along, and deleting it."""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import grpc
import typer
from google.protobuf import json_format

from ragweave import exports
from ragweave.cli.console import app, command, connect_as_operator, err, fail, out
from ragweave.v1 import quota_pb2, tenant_pb2
from ragweave.v1 import system_service_pb2 as pb

_LIMITS = [field.name for field in quota_pb2.Quota.Amounts.DESCRIPTOR.fields]
_LOOK_S = 1.0
_REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)

tenant = typer.Typer(no_args_is_help=True, help="Whole tenants: export, verify, delete, restore, status.")
app.add_typer(tenant, name="tenant")

Name = Annotated[str, typer.Argument(help="The tenant, as its tokens name it.")]


@command(group=tenant)
def export(
    name: Name,
    to: Annotated[
        Path | None, typer.Option("--out", help="A file ending in .jsonl, else a new folder; standard output without.")
    ] = None,
    without_originals: Annotated[bool, typer.Option(help="Leave out the bytes of the documents' originals.")] = False,
) -> None:
    """Write down everything a tenant keeps."""
    with connect_as_operator() as client:
        records = client.export_tenant(name, without_originals=without_originals)
        if to is None:
            for record in records:
                sys.stdout.write(json_format.MessageToJson(record, indent=None) + "\n")
            return
        try:
            with err.status(f"exporting {name}"):
                counts = exports.write(records, to)
        except (exports.BadExport, OSError) as error:
            fail(str(error))
    out.print(f"{to}: {_summary(counts)}", soft_wrap=True)


@command(group=tenant)
def verify(path: Annotated[Path, typer.Argument(help="What `ragweave tenant export --out` wrote.")]) -> None:
    """Check that an export is whole, and every original what its hash says."""
    try:
        counts = exports.verify(path)
    except (exports.BadExport, OSError) as error:
        fail(str(error))
    out.print(f"{path}: whole; {_summary(counts)}", soft_wrap=True)


@command(group=tenant)
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until nothing of it is left.")] = True,
) -> None:
    """Delete everything of a tenant for ever, and refuse its tokens."""
    if not yes:
        typer.confirm(f"Delete everything that the tenant {name!r} keeps, for ever?", abort=True, err=True)
    with connect_as_operator() as client:
        told = client.system.DeleteTenant(pb.DeleteTenantRequest(name=f"tenants/{name}"))
        with err.status("erasing") as shown:
            while wait and told.state == tenant_pb2.Tenant.DELETING:
                waiting = [f"{part.service} ({part.error.message})" for part in told.parts if part.HasField("error")]
                shown.update("erasing" + (f", waiting for {', '.join(waiting)}" if waiting else ""))
                time.sleep(_LOOK_S)
                try:
                    told = client.system.GetTenant(pb.GetTenantRequest(name=f"tenants/{name}"))
                except grpc.RpcError as error:
                    if error.code() not in _REFUSED:
                        raise
                    out.print(f"{name} is being deleted; its tokens, this one too, are refused from now on")
                    return
    _show(told)


@command(group=tenant)
def restore(name: Name) -> None:
    """Take a deleted tenant's tokens again; what was erased does not come back."""
    with connect_as_operator() as client:
        _show(client.system.RestoreTenant(pb.RestoreTenantRequest(name=f"tenants/{name}")))


@command("status", group=tenant)
def tenant_status(name: Name) -> None:
    """Show where a tenant stands, how far its deletion is, and what it keeps."""
    with connect_as_operator() as client:
        told = client.system.GetTenant(pb.GetTenantRequest(name=f"tenants/{name}"))
        _show(told)
        if told.state == tenant_pb2.Tenant.ACTIVE:
            _show_quota(client.system.GetQuota(pb.GetQuotaRequest(name=f"quotas/{name}")))


@command()
def quota(
    name: Annotated[str, typer.Argument(help="The tenant, as its tokens name it.")] = "default",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help=f"LIMIT=NUMBER; limits: {', '.join(_LIMITS)}. Repeatable.")
    ] = None,
) -> None:
    """Show what a tenant keeps and may keep; with --set, change what it may."""
    asked = quota_pb2.Quota(name=f"quotas/{name}")
    for each in set_ or ():
        limit, _, number = each.partition("=")
        if limit not in _LIMITS or not number.isdecimal():
            fail(f"--set {each}: give LIMIT=NUMBER, with a limit of {', '.join(_LIMITS)}")
        setattr(asked.limits, limit, int(number))
    with connect_as_operator() as client:
        if set_:
            request = pb.UpdateQuotaRequest(quota=asked)
            request.update_mask.paths.extend(f"limits.{each.partition('=')[0]}" for each in set_)
            _show_quota(client.system.UpdateQuota(request))
        else:
            _show_quota(client.system.GetQuota(pb.GetQuotaRequest(name=asked.name)))


def _show(told: tenant_pb2.Tenant) -> None:
    out.print(f"{told.name} {tenant_pb2.Tenant.State.Name(told.state)}", markup=False)
    for part in told.parts:
        standing = "nothing left" if part.erased else part.error.message or "erasing"
        out.print(f"  {part.service:<12} {standing}", markup=False, soft_wrap=True)


def _show_quota(told: quota_pb2.Quota) -> None:
    out.print(told.name, markup=False)
    for limit in _LIMITS:
        used = f"{getattr(told.usage, limit):,}" if told.HasField("usage") else "?"
        out.print(f"  {limit:<14} {used} of {getattr(told.limits, limit):,}", markup=False)


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(counts.items())) or "nothing"
