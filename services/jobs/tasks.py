"""Which work each kind of lease stands for."""

from services.jobs.evaluating import EvaluationEnd, QueryRun, queries
from services.jobs.expansion import Expansion, Listing, Sweep
from services.jobs.job import Assignment, JobType, Lease, Task
from services.jobs.leasing import Begin
from services.jobs.pipeline import DocumentImport, Tools
from services.jobs.purging import DocumentPurge
from services.jobs.reprocessing import DocumentReprocess
from services.jobs.selection import selected
from services.jobs.work import Work


def beginning(tools: Tools) -> Begin:
    """Makes the work of a lease, with these tools."""

    def begin(lease: Lease, job: Assignment) -> Work:
        match lease.task:
            case Task.EXPAND:
                return Expansion(tools.queue, _listing(tools, job), lease, distinct=job.table is not None)
            case Task.SWEEP if job.type is JobType.EVALUATE:
                return EvaluationEnd(tools.evaluations, tools.patience, job)
            case Task.SWEEP:
                return Sweep(tools.queue, tools.registry, tools.index, tools.patience, lease, job)
            case Task.ITEM:
                return _item(tools, lease, job)

    return begin


def _listing(tools: Tools, job: Assignment) -> Listing:
    if job.type in (JobType.REPROCESS, JobType.PURGE):
        return selected(tools.registry, tools.patience, job)
    if job.type is JobType.EVALUATE:
        return queries(tools.evaluations, tools.patience, job)
    return tools.reader.listing(job)


def _item(tools: Tools, lease: Lease, job: Assignment) -> Work:
    match job.type:
        case JobType.IMPORT | JobType.SYNC:
            return DocumentImport(tools, lease, job)
        case JobType.REPROCESS:
            return DocumentReprocess(tools, lease, job)
        case JobType.PURGE:
            return DocumentPurge(tools.queue, tools.registry, tools.index, tools.patience, lease, job)
        case JobType.EVALUATE:
            return QueryRun(tools.evaluations, tools.patience, lease, job)
