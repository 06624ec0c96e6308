"""What of a job is for whom: a document with an ACL shows in it to those on the ACL, and to who writes documents.

An ACL that is set after the import does not reach back into its job, which is forgotten a day after it has ended.
"""

from dataclasses import replace
from typing import Final

from services.jobs.job import DocumentSpec, Event, Failure, Item
from services.mesh.identity import Caller

_VEILED: Final = "a document that is not for everyone failed; those who may see it find the reason with it"


def item_for(who: Caller, item: Item) -> Item:
    """The item as the caller may see it: what is not for it still counts, without saying which document it is."""
    spec = item.spec
    if not spec.principals or "documents.write" in who.scopes or not who.principals.isdisjoint(spec.principals):
        return item
    return replace(item, spec=DocumentSpec(""), error=item.error and veiled(item.error))


def event_for(who: Caller, event: Event) -> Event:
    return replace(event, item=event.item and item_for(who, event.item))


def told(spec: DocumentSpec | None, failure: Failure | None) -> Failure | None:
    """The failure as the job repeats it, for all who may see the job."""
    return veiled(failure) if failure and spec and spec.principals else failure


def veiled(failure: Failure) -> Failure:
    """The same failure without its words, which name the document."""
    return replace(failure, message=_VEILED)
