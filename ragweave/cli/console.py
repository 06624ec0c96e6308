"""The one typer application, where it prints, and how it ends on an error."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

import grpc
import typer
from rich.console import Console
from rich.markup import escape

from ragweave.client import Client
from ragweave.errors import RagweaveError
from ragweave.local.keys import NoKeys, sign_token
from ragweave.local.layout import BadSetting, Layout

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Retrieval for other backends: documents in, ranked and cited passages out.",
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

DEFAULT_TENANT = "default"
DEFAULT_OPERATOR = "operator"


def layout() -> Layout:
    """The mesh of this folder and environment."""
    return Layout.read()


def connect(tenant: str = DEFAULT_TENANT) -> Client:
    """A client of the edge with RAGWEAVE_TOKEN, else with a development token of a tenant."""
    here = layout()

    def token() -> str:
        return os.environ.get("RAGWEAVE_TOKEN") or sign_token(
            here.keys, tenant=tenant, subject="developer", roles=["admin"], tier="pro"
        )

    return Client(_target(here), token=token, credentials=edge_credentials(here))


def connect_as_operator() -> Client:
    """A client of the edge with RAGWEAVE_TOKEN, else with a development token of the operators' tenant."""
    return connect(tenant=os.environ.get("RAGWEAVE_OPERATOR_TENANT") or DEFAULT_OPERATOR)


def connect_anonymously() -> Client:
    """A client of the edge without a token."""
    here = layout()
    return Client(_target(here), token="", credentials=edge_credentials(here))


def _target(here: Layout) -> str:
    return os.environ.get("RAGWEAVE_TARGET") or here.address("edge")


def edge_credentials(here: Layout) -> grpc.ChannelCredentials | None:
    """What tools trust at the edge; None where it speaks plain text. Raises BadSetting where the CA is not there."""
    if not here.https:
        return None
    if here.edge_authority is None:
        return grpc.ssl_channel_credentials()
    try:
        return grpc.ssl_channel_credentials(here.edge_authority.read_bytes())
    except OSError as error:
        raise BadSetting(f"{here.edge_authority}: {error.strerror}; `ragweave up` makes the local CA") from None


def fail(message: str) -> NoReturn:
    """Prints what is wrong and ends with status 1."""
    err.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
    raise typer.Exit(1)


def command(name: str | None = None, *, group: typer.Typer = app) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a command whose known failures end with one clear sentence instead of a traceback."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except (BadSetting, NoKeys) as error:
                fail(str(error))
            except RagweaveError as error:
                _explain(error)
            except grpc.RpcError as error:
                _explain(RagweaveError.of(error))
            except KeyboardInterrupt:
                sys.exit(130)

        group.command(name)(run)
        return run

    return register


def _explain(error: RagweaveError) -> NoReturn:
    if error.code is grpc.StatusCode.UNAVAILABLE and not error.reason:
        fail(f"the mesh does not answer ({error.message}); `ragweave status` shows what runs, `ragweave up` starts it")
    fail(str(error))
