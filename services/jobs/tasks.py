"""Which work each kind of lease stands for."""

from services.jobs.expansion import Expansion, Sweep
from services.jobs.job import Assignment, Lease, Task
from services.jobs.leasing import Begin
from services.jobs.pipeline import DocumentImport, Tools
from services.jobs.work import Work


def beginning(tools: Tools) -> Begin:
    """Makes the work of a lease, with these tools."""

    def begin(lease: Lease, job: Assignment) -> Work:
        match lease.task:
            case Task.EXPAND:
                return Expansion(tools.queue, tools.reader.listing(job), lease, distinct=job.table is not None)
            case Task.SWEEP:
                return Sweep(tools.queue, tools.registry, tools.index, tools.patience, lease, job)
            case Task.ITEM:
                return DocumentImport(tools, lease, job)

    return begin
