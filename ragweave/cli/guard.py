"""Commands for who may call and who did: revoke, unrevoke, revocations, audit."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from ragweave.cli.console import command, connect, fail, out
from ragweave.v1 import audit_event_pb2, revocation_pb2, system_service_pb2


@command()
def revoke(
    subject: Annotated[str, typer.Argument(help="Deny every token of this subject.")] = "",
    token: Annotated[str, typer.Option(help="Deny one token instead: its id (`jti`), or the token itself.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    hours: Annotated[float, typer.Option(help="End it by itself after so long; 0 for never.", min=0)] = 0,
) -> None:
    """Deny a subject or a token of this tenant; holds everywhere within 30 seconds."""
    if bool(subject) == bool(token):
        fail("name one of a subject and --token")
    given = revocation_pb2.Revocation(subject=subject) if subject else revocation_pb2.Revocation(token_id=_id_of(token))
    given.reason = reason
    if hours:
        expire_time = Timestamp()
        expire_time.FromDatetime(datetime.now(UTC) + timedelta(hours=hours))
        given.expire_time.CopyFrom(expire_time)
    with connect() as client:
        made = client.system.CreateRevocation(system_service_pb2.CreateRevocationRequest(revocation=given))
    out.print(f"{made.name}  holds everywhere within 30 seconds", soft_wrap=True)


@command()
def unrevoke(name: Annotated[str, typer.Argument(help="The revocation: `revocations/...` or its bare id.")]) -> None:
    """End a revocation: tokens that have not expired are taken again."""
    name = name if name.startswith("revocations/") else f"revocations/{name}"
    with connect() as client:
        client.system.DeleteRevocation(system_service_pb2.DeleteRevocationRequest(name=name))
    out.print(f"{name}  ends everywhere within 30 seconds", soft_wrap=True)


@command()
def revocations(
    filter_: Annotated[str, typer.Option("--filter", "-f", help="AIP-160, such as 'subject = \"ann\"'.")] = "",
    page_size: Annotated[int, typer.Option("-n", help="Revocations to show.", min=1, max=100)] = 20,
) -> None:
    """List the revocations of this tenant that hold, newest first."""
    request = system_service_pb2.ListRevocationsRequest(filter=filter_, page_size=page_size)
    with connect() as client:
        listed = client.system.ListRevocations(request)
    for each in listed.revocations:
        whom = f"subject {each.subject}" if each.subject else f"token {each.token_id}"
        until = f"until {_at(each.expire_time)}" if each.HasField("expire_time") else "for good"
        line = f"{each.name}  {whom}  {until}  by {each.creator}  {each.reason}"
        out.print(line.rstrip(), markup=False, soft_wrap=True)
    _tell_rest(len(listed.revocations), listed.total_size, "revocations")


@command()
def audit(
    filter_: Annotated[str, typer.Option("--filter", "-f", help="AIP-160, such as 'outcome = \"REFUSED\"'.")] = "",
    page_size: Annotated[int, typer.Option("-n", help="Events to show.", min=1, max=100)] = 20,
) -> None:
    """List what this tenant's callers asked to be changed, newest first."""
    request = system_service_pb2.ListAuditEventsRequest(filter=filter_, page_size=page_size)
    with connect() as client:
        listed = client.system.ListAuditEvents(request)
    for each in listed.audit_events:
        outcome = audit_event_pb2.AuditEvent.Outcome.Name(each.outcome)
        code = f" ({each.code})" if each.code not in ("", "OK") else ""
        who = f"{each.subject} through {each.service}" if each.service else each.subject
        method = each.method.rpartition("/")[2]
        checked = " (checks only)" if each.validate_only else ""
        line = f"{_at(each.event_time)}  {who}  {method}{checked}  {each.resource or '-'}  {outcome}{code}"
        out.print(line, markup=False, soft_wrap=True)
    _tell_rest(len(listed.audit_events), listed.total_size, "events")


def _id_of(token: str) -> str:
    """The id of a token, where it is one and not an id already."""
    parts = token.split(".")
    if len(parts) != 3:
        return token
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        token_id = claims.get("jti")
    except (ValueError, AttributeError):
        fail("--token: three parts, but no token")
    if not isinstance(token_id, str) or not token_id:
        fail("--token: this token has no id (`jti`); revoke its subject")
    return token_id


def _at(moment: Timestamp) -> str:
    return moment.ToDatetime(tzinfo=UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")


def _tell_rest(shown: int, total: int, what: str) -> None:
    if not total:
        out.print(f"no {what}")
    elif shown < total:
        out.print(f"... {total} in all")
