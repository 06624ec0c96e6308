"""How often a caller may call: the limits of each rate class and tier, and what of them Envoy must be told."""

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import RESOURCE_EXHAUSTED
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from ragweave.v1 import policy_pb2

# Calls a minute, by rate class and tier.
Limits = Mapping[str, Mapping[str, int]]

# The tier of callers without a token, who are told apart by address, and of tokens that name no known tier.
ANONYMOUS, FREE = "anonymous", "free"
CLASSES = tuple(
    name
    for name in policy_pb2.Policy.RateClass.keys()  # noqa: SIM118  # an enum of protobuf, not a dict
    if name not in ("RATE_CLASS_UNSPECIFIED", "UNLIMITED")
)
DEFAULT_LIMITS: Limits = {
    "SEARCH": {ANONYMOUS: 100, FREE: 100, "pro": 1000},
    "READ": {ANONYMOUS: 100, FREE: 100, "pro": 1000},
    "WRITE": {ANONYMOUS: 20, FREE: 20, "pro": 200},
    "INGEST": {ANONYMOUS: 10, FREE: 10, "pro": 100},
    "ADMIN": {ANONYMOUS: 50, FREE: 50, "pro": 50},
}
MAX_PER_MINUTE = 100_000_000
DOMAIN = "ragweave"
REASON = "RATE_LIMIT_EXCEEDED"

_TIER = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def limits_from(given: Limits) -> Limits:
    """The defaults with what is given in their place; a tier of one's own names every class.

    Raises:
        ValueError: A class is unknown, a tier lacks a class (a typo in its name, most likely) or is no name, or a limit
            is out of range. Says which.
    """
    unknown = sorted(given.keys() - set(CLASSES))
    if unknown:
        raise ValueError(f"no rate class {', '.join(unknown)}; there are {', '.join(CLASSES)}")
    merged = {name: {**DEFAULT_LIMITS[name], **given.get(name, {})} for name in CLASSES}
    for tier in sorted({tier for tiers in merged.values() for tier in tiers}):
        if not _TIER.fullmatch(tier):
            raise ValueError(f"the tier {tier} is not a name of small letters, digits, - and _")
        missing = [name for name in CLASSES if tier not in merged[name]]
        if missing:
            raise ValueError(
                f"the tier {tier} has no limit for {', '.join(missing)}: name every class, or check the name"
            )
    for name, tiers in merged.items():
        for tier, limit in tiers.items():
            if not 1 <= limit <= MAX_PER_MINUTE:
                raise ValueError(f"{name} of {tier} is {limit}; a limit is 1 to {MAX_PER_MINUTE} calls a minute")
    return merged


def tiers_of(limits: Limits) -> tuple[str, ...]:
    """Every tier, sorted; all classes have the same."""
    return tuple(sorted(limits[CLASSES[0]]))


def refusals(limits: Limits) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """What a caller over its limit is told, by class and tier, as texts a route's metadata can hold.

    `retry_after` are whole seconds and `retry_delay` a JSON duration until a token is surely there: buckets refill
    continuously, so one more call is earned every 60 / limit seconds. `status` is for grpc-status-details-bin;
    `shared_status` says no delay, since a service that counts for several edges knows another one.
    """
    return {
        name: {tier: _refusal(name, tier, limit) for tier, limit in tiers.items()} for name, tiers in limits.items()
    }


def service_config(limits: Limits) -> str:
    """The limits as github.com/envoyproxy/ratelimit takes them: YAML, written as JSON."""
    return json.dumps({"domain": DOMAIN, "descriptors": [_class(*each) for each in limits.items()]}, indent=2) + "\n"


def _class(name: str, tiers: Mapping[str, int]) -> Mapping[str, Any]:
    return {"key": "class", "value": name, "descriptors": [_tier(tier, limit) for tier, limit in tiers.items()]}


def _tier(tier: str, limit: int) -> Mapping[str, Any]:
    each: Mapping[str, Any] = {"rate_limit": {"unit": "minute", "requests_per_unit": limit}}
    caller = (
        {"key": "masked_remote_address", **each}
        if tier == ANONYMOUS
        else {"key": "tenant", "descriptors": [{"key": "subject", **each}]}
    )
    return {"key": "tier", "value": tier, "descriptors": [caller]}


def _refusal(rate_class: str, tier: str, limit: int) -> Mapping[str, str]:
    wait_ms = ceil(Fraction(60_000, limit))
    delay = Duration()
    delay.FromMilliseconds(wait_ms)
    message = f"more than {limit} {rate_class} calls a minute, the limit of tier {tier}"
    details = [
        ErrorInfo(reason=REASON, domain=DOMAIN, metadata={"class": rate_class, "tier": tier, "limit": str(limit)}),
        QuotaFailure(violations=[QuotaFailure.Violation(subject=f"class:{rate_class}", description=message)]),
    ]
    return {
        "message": message,
        "limit": str(limit),
        "retry_after": str(ceil(wait_ms / 1000)),
        "retry_ms": str(wait_ms),
        "retry_delay": delay.ToJsonString(),
        "status": _status(message, [*details, RetryInfo(retry_delay=delay)]),
        "shared_status": _status(message, details),
    }


def _status(message: str, details: Sequence[Message]) -> str:
    status = Status(code=RESOURCE_EXHAUSTED, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return b64encode(status.SerializeToString(deterministic=True)).decode()
