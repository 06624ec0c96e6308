"""Prometheus and Alertmanager as compose/observability.yaml runs them, but as processes of this machine."""

import json
import math
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from tests.ports import free_port

COMPOSE: Final = Path(__file__).resolve().parents[1] / "compose"
_PATIENCE_S: Final = 60.0
_LOOK_S: Final = 0.5
_TEMPLATES: Final = Path("/usr/share/prometheus/alertmanager/default.tmpl")


class Series(NamedTuple):
    """What PromQL gives for one set of labels: its values that are numbers, in the order of time."""

    labels: Mapping[str, str]
    values: Sequence[float]


class Alert(NamedTuple):
    """An alert as Alertmanager has it; `muted` where another explains it."""

    name: str
    job: str
    muted: bool


@dataclass(frozen=True)
class Watch:
    """A Prometheus and its Alertmanager, while they run; `alertmanager` is empty where none is here."""

    prometheus: str
    alertmanager: str

    def health(self) -> dict[str, str]:
        """How each job's last scrape went: "up", or why not."""
        found = _read(f"{self.prometheus}/api/v1/targets")["data"]["activeTargets"]
        return {each["labels"]["job"]: each["lastError"] or each["health"] for each in found}

    def values(self, expression: str, since: float, *, step_s: float) -> list[Series]:
        """What an expression has been since then (Unix time); series that were no number all along are left out."""
        asked = {"query": expression, "start": since, "end": time.time(), "step": step_s}
        found = _read(f"{self.prometheus}/api/v1/query_range", asked)["data"]["result"]
        series = [Series(each["metric"], [float(value) for _, value in each["values"]]) for each in found]
        finite = [Series(labels, [each for each in values if math.isfinite(each)]) for labels, values in series]
        return [each for each in finite if each.values]

    def firing(self) -> set[tuple[str, str]]:
        """Alert and job of what fires."""
        found = _read(f"{self.prometheus}/api/v1/alerts")["data"]["alerts"]
        return {(each["labels"]["alertname"], each["labels"].get("job", "")) for each in found if _fires(each)}

    def told(self) -> list[Alert]:
        """What Alertmanager was told of and is not over."""
        found = _read(f"{self.alertmanager}/api/v2/alerts")
        labelled = [(each["labels"], each["status"]) for each in found]
        return [
            Alert(labels["alertname"], labels.get("job", ""), bool(status["inhibitedBy"]))
            for labels, status in labelled
        ]


@contextmanager
def watching(folder: Path, targets: Mapping[str, str]) -> Iterator[Watch]:
    """Runs both with the configuration and the options of compose/, which only addresses and paths differ from.

    Args:
        folder: For what they keep, and their logs.
        targets: `host:port` to ask by name of the job; every job of prometheus.yml but Prometheus's own.
    """
    own, alertmanager = (f"127.0.0.1:{free_port()}" for _ in range(2))
    commands = {"alertmanager": _alertmanager(), "prometheus": _binary("prometheus")}
    places = {
        "/etc/prometheus/prometheus.yml": folder / "prometheus.yml",
        "/prometheus": folder / "prometheus",
        "/etc/alertmanager": COMPOSE / "observability",
        "/alertmanager": folder / "alertmanager",
    }
    config = configuration(targets | {"prometheus": own}, alertmanager)
    places["/etc/prometheus/prometheus.yml"].write_text(yaml.safe_dump(config), "utf-8")
    if not commands["prometheus"]:
        raise SystemExit("prometheus is not here; `make observe-test` finds it on Debian alone")
    watch = Watch(f"http://{own}", f"http://{alertmanager}" if commands["alertmanager"] else "")
    listens = {name: at for name, at in (("alertmanager", alertmanager), ("prometheus", own)) if commands[name]}
    with _running(folder, places, {commands[name]: (name, at) for name, at in listens.items()}):
        for url in filter(None, (watch.alertmanager, watch.prometheus)):
            until(partial(_is_ready, url), f"{url} is ready", _PATIENCE_S)
        yield watch


def configuration(targets: Mapping[str, str], alertmanager: str) -> dict[str, Any]:
    """compose/observability/prometheus.yml with these addresses. Raises KeyError for a job without one."""
    config: dict[str, Any] = yaml.safe_load((COMPOSE / "observability" / "prometheus.yml").read_text("utf-8"))
    config["rule_files"] = [str(COMPOSE / "observability" / "rules" / "*.yml")]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager]}]}]
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    return config


def until(holds: Callable[[], object], what: str, patience_s: float) -> None:
    """Waits until something holds. Raises AssertionError that says what did not."""
    given_up = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < given_up, f"not within {patience_s:.0f} s: {what}"
        time.sleep(_LOOK_S)


@contextmanager
def _running(folder: Path, places: Mapping[str, Path], listens: Mapping[str, tuple[str, str]]) -> Iterator[None]:
    """Containers as processes: by its program, which service of the file each is, and where it listens."""
    services = yaml.safe_load((COMPOSE / "observability.yaml").read_text("utf-8"))["services"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for program, (name, address) in listens.items():
            options = [_moved(option, places) for option in services[name]["command"]]
            with (folder / f"{name}.log").open("wb") as log:
                command = [program, *options, f"--web.listen-address={address}"]
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(_PATIENCE_S)


def _moved(option: str, places: Mapping[str, Path]) -> str:
    """An option of a container where its folders are elsewhere."""
    name, _, value = option.partition("=")
    inside = next((each for each in places if value.startswith(each)), "")
    return f"{name}={places[inside]}{value.removeprefix(inside)}" if inside else option


def _binary(name: str) -> str:
    """Where a program is, "" where it is not."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name) or ""


def _alertmanager() -> str:
    """Debian's has another name, and runs only where the rest of its package is installed, too."""
    return _binary("alertmanager") or (_binary("prometheus-alertmanager") if _TEMPLATES.exists() else "")


def _fires(alert: Mapping[str, Any]) -> bool:
    return bool(alert["state"] == "firing")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _read(url: str, query: Mapping[str, object] | None = None) -> Any:
    data = urllib.parse.urlencode(query).encode() if query else None
    try:
        with urllib.request.urlopen(url, data, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{url} {query}: {error.read().decode()}") from None
