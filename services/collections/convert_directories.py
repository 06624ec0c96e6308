"""Between the contract's messages of folders and the domain."""

from ragweave.v1 import directory_pb2, directory_service_pb2
from services.collections.entries import Entry, Finding, FoundRoot
from services.mesh.convert_times import time_to
from services.mesh.lists import Page


def roots_to(page: Page[FoundRoot]) -> directory_service_pb2.ListRootsResponse:
    return directory_service_pb2.ListRootsResponse(
        roots=map(root_to, page.items), next_page_token=page.next_page_token, total_size=page.total_size
    )


def root_to(root: FoundRoot) -> directory_pb2.DirectoryRoot:
    return directory_pb2.DirectoryRoot(path=root.path, available=not root.problem, problem=root.problem, name=root.name)


def entries_to(page: Page[Entry]) -> directory_service_pb2.ListDirectoryEntriesResponse:
    return directory_service_pb2.ListDirectoryEntriesResponse(
        entries=map(entry_to, page.items), next_page_token=page.next_page_token, total_size=page.total_size
    )


def entry_to(entry: Entry) -> directory_pb2.DirectoryEntry:
    return directory_pb2.DirectoryEntry(
        path=entry.path,
        kind=directory_pb2.DirectoryEntry.Kind.Value(entry.kind),
        size_bytes=entry.size_bytes or 0,
        update_time=time_to(entry.update_time),
        mime_type=entry.mime_type,
        importable=not entry.problem,
        problem=entry.problem,
    )


def finding_to(finding: Finding) -> directory_service_pb2.ValidatePathResponse:
    return directory_service_pb2.ValidatePathResponse(
        valid=not finding.problem,
        problem=finding.problem,
        entry=entry_to(finding.entry) if finding.entry else None,
        importable_files=finding.importable_files,
    )
