"""Between the contract's messages and how the deployment is."""

from ragweave.v1.health_pb2 import Health
from ragweave.v1.version_pb2 import Version
from services.mesh.convert_reports import process_to
from services.mesh.convert_times import time_to
from services.system.health import DeploymentReport, ServiceReport, VersionReport


def deployment_to(report: DeploymentReport) -> Health:
    return Health(
        state=Health.State.Value(report.state),
        version=report.version,
        observe_time=time_to(report.observe_time),
        services=map(_service_to, report.services),
    )


def version_to(report: VersionReport) -> Version:
    return Version(version=report.version, api_version=report.api_version, commit=report.commit)


def _service_to(report: ServiceReport) -> Health.Service:
    return Health.Service(
        name=report.name, state=Health.State.Value(report.state), processes=map(process_to, report.processes)
    )
