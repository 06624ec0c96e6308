"""Starts the gateway: `python -m gateway`."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pydantic import ValidationError

from gateway.app import Health, application
from gateway.documentation import files
from gateway.server import CannotStart, serve
from gateway.settings import ROLE, Settings
from gateway.telemetry import exposing_metrics
from ragweave.json_logs import write_json_logs
from ragweave.local.layout import BadSetting


async def main(settings: Settings) -> None:
    write_json_logs(ROLE, settings.log_level, settings.log_levels)
    health = Health()
    with _metrics(settings):
        await serve(application(files(), health), health, settings)


@contextmanager
def _metrics(settings: Settings) -> Iterator[None]:
    with ExitStack() as exposed:
        try:
            exposed.enter_context(exposing_metrics(settings.metrics_host, settings.metrics_port))
        except OSError:
            port = settings.metrics_port
            raise CannotStart(f"port {port} (metrics of gateway) is taken; set RAGWEAVE_GATEWAY_METRICS_PORT") from None
        yield


def _settings() -> Settings:
    """Raises CannotStart where some are out of bounds; names them and quotes none."""
    try:
        return Settings()
    except BadSetting as error:
        raise CannotStart(str(error)) from None
    except ValidationError as error:
        said = error.errors(include_input=False, include_url=False, include_context=False)
        raise CannotStart(
            "\n".join(f"{_variable(each['loc'])}{each['msg'].removeprefix('Value error, ')}" for each in said)
        ) from None


def _variable(place: tuple[int | str, ...]) -> str:
    name = str(place[0]).upper() if place else ""
    prefix = "" if name.startswith("RAGWEAVE_") else Settings.model_config["env_prefix"]
    return f"{prefix}{name}: " if name else ""


if __name__ == "__main__":
    asyncio.run(main(_settings()))
    # All is closed; but threads of granian may still let go of Python's objects, which an interpreter that is ending
    # answers with SIGABRT.
    sys.stderr.flush()
    os._exit(0)
