"""What is sent to webhooks, signed as Standard Webhooks says, and when it is tried again."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Self

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from services.jobs.webhook import (
    SCHEDULE_S,
    Delivery,
    DeliveryState,
    Schedule,
    Turn,
    Webhook,
    new_secret,
    secret_from,
)
from services.mesh.errors import InvalidArgument

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = b'{"test": 2432232314}'
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class _Then(datetime):
    """A clock that stands at NOW."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(NOW.timestamp(), tz)


@pytest.fixture(autouse=True)
def verifying_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who verifies what was sent at NOW does so at once, however long the suite has run."""
    monkeypatch.setattr("standardwebhooks.webhooks.datetime", _Then)


LONG_S = 5 * 24 * 3600.0


def webhook(**fields: Any) -> Webhook:
    known = {"tenant": "acme", "id": "w", "uri": "https://example.com/", "secret": SecretStr(SECRET), "etag": '"e"'}
    return Webhook(**{**known, "create_time": NOW, "update_time": NOW, **fields})


def turn(**fields: Any) -> Turn:
    delivery = Delivery("w", 1, "job:1", "document.indexed", "uid-1", NOW, first_attempt_time=NOW, attempts=1)
    return Turn(webhook(), replace(delivery, **fields), BODY, 1, NOW, 60.0)


def test_the_vector_of_standard_webhooks_is_signed_as_it_says() -> None:
    """From the tests of its reference libraries, all of which have this one."""
    headers = webhook().headers("msg_p5jXN8AQM9LWM0D4loKWxJek", BODY, datetime.fromtimestamp(1614265330, UTC))
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_what_is_signed_verifies_and_what_was_touched_does_not() -> None:
    headers = dict(webhook().headers("msg_1", BODY, NOW))
    assert Verifier(SECRET).verify(BODY, headers) == {"test": 2432232314}
    assert Verifier(SECRET.removeprefix("whsec_")).verify(BODY, headers)
    for touched in (
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": str(int(NOW.timestamp()) + 1)},
        {"webhook-timestamp": "hello"},
        {"webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="},
        {"webhook-signature": headers["webhook-signature"].replace("v1,", "v2,")},
    ):
        with pytest.raises(WebhookVerificationError):
            Verifier(SECRET).verify(BODY, {**headers, **touched})
    for missing in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        with pytest.raises(WebhookVerificationError):
            Verifier(SECRET).verify(BODY, {name: value for name, value in headers.items() if name != missing})
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(BODY + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(OTHER).verify(BODY, headers)


def test_our_signature_is_found_among_those_of_others() -> None:
    headers = dict(webhook().headers("msg_1", BODY, NOW))
    other = "Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
    headers["webhook-signature"] = f"v1,{other} v2,{other} {headers['webhook-signature']} v1,{other}"
    assert Verifier(SECRET).verify(BODY, headers) == {"test": 2432232314}


@pytest.mark.parametrize("late_s", [-301, 301])
def test_what_was_signed_at_another_time_is_refused(late_s: float) -> None:
    headers = webhook().headers("msg_1", BODY, NOW + timedelta(seconds=late_s * 1.1))
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(BODY, dict(headers))


def test_while_a_secret_is_changed_both_verify_what_is_sent() -> None:
    rotated = webhook(
        secret=SecretStr(OTHER), old_secret=SecretStr(SECRET), old_secret_expire_time=NOW + timedelta(hours=1)
    )
    headers = dict(rotated.headers("msg_1", BODY, NOW))
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER):
        Verifier(secret).verify(BODY, headers)
    later = dict(replace(rotated, old_secret_expire_time=NOW).headers("msg_1", BODY, NOW))
    Verifier(OTHER).verify(BODY, later)
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(BODY, later)


def test_a_secret_is_random_and_never_shown_by_accident() -> None:
    secrets = {new_secret().get_secret_value() for _ in range(10)}
    assert len(secrets) == 10
    assert all(secret_from(each).get_secret_value() == each for each in secrets)
    rotated = webhook(old_secret=SecretStr(OTHER))
    assert SECRET not in repr(rotated)
    assert OTHER not in f"{rotated} {turn()}"
    assert (rotated.sealed().secret, rotated.sealed().old_secret) == (SecretStr(""), None)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "whsec_",
        "whsec_a",
        "whsec_****************************************",
        f"whsec_{base64.b64encode(b'x' * 23).decode()}",
        f"whsec_{base64.b64encode(b'x' * 65).decode()}",
        base64.b64encode(b"x" * 32).decode(),
        "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        f"{SECRET}\n",
    ],
)
def test_what_is_no_secret_of_24_to_64_bytes_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        secret_from(given)
    assert not given.strip() or given not in refused.value.message or given == "whsec_"


@pytest.mark.parametrize(
    ("topics", "collection", "wanted"),
    [
        ((), "", True),
        (("document.indexed",), "", True),
        (("collection.created", "document.*"), "", True),
        (("document.failed", "ingestion.*"), "", False),
        ((), "books", True),
        ((), "films", False),
        (("document.*",), "films", False),
    ],
)
def test_a_webhook_wants_its_topics_of_its_collection(topics: tuple[str, ...], collection: str, wanted: bool) -> None:
    assert webhook(topics=topics, collection_id=collection).wants("document.indexed", "books") is wanted


def test_each_attempt_is_made_within_its_delay_of_the_schedule_wherever_chance_has_it() -> None:
    for chance in (0.0, 0.5, 0.999):
        schedule = Schedule(disable_after_s=LONG_S, chance=lambda chance=chance: chance)
        at_s, starts_s = 0.0, 0.0
        for slot, delay_s in enumerate(SCHEDULE_S):
            each = replace(turn(slot=slot), now=NOW + timedelta(seconds=at_s))
            sent = schedule.after(each, 500, "")
            assert (sent.state, sent.slot, sent.error) == (DeliveryState.PENDING, slot + 1, "answered 500")
            at_s += sent.retry_in_s
            assert at_s == pytest.approx(starts_s + chance * delay_s)
            starts_s += delay_s
        last = replace(turn(slot=len(SCHEDULE_S)), now=NOW + timedelta(seconds=at_s))
        assert schedule.after(last, 0, "no answer").state is DeliveryState.DEAD
        assert at_s >= sum(SCHEDULE_S[:-1]) > 2 * 24 * 3600, "a receiver has two days at least"


def test_attempts_that_come_late_are_not_made_in_a_burst() -> None:
    schedule = Schedule(disable_after_s=LONG_S, chance=lambda: 0.5)
    late = replace(turn(slot=2), now=NOW + timedelta(hours=40))
    assert schedule.after(late, 500, "").retry_in_s == 0.5 * SCHEDULE_S[2]


def test_an_attempt_before_its_time_costs_none_of_the_schedule() -> None:
    schedule = Schedule(disable_after_s=LONG_S)
    early = turn(slot=3, next_attempt_time=NOW + timedelta(hours=2))
    sent = schedule.after(early, 500, "")
    assert (sent.state, sent.slot, sent.retry_in_s) == (DeliveryState.PENDING, 3, 2 * 3600)
    assert schedule.after(early, 204, "").state is DeliveryState.DELIVERED


@pytest.mark.parametrize("status", [100, 301, 302, 307, 400, 401, 404, 429, 500, 502, 503, 504])
def test_all_but_2xx_is_a_failure(status: int) -> None:
    assert Schedule(disable_after_s=LONG_S).after(turn(), status, "").state is DeliveryState.PENDING


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_a_success(status: int) -> None:
    assert Schedule(disable_after_s=LONG_S).after(turn(), status, "").state is DeliveryState.DELIVERED


def test_410_and_a_long_time_without_success_disable_the_webhook() -> None:
    schedule = Schedule(disable_after_s=3600)
    assert "410" in schedule.after(turn(), 410, "").disable
    failing = webhook(failing_since=NOW - timedelta(seconds=3599))
    assert schedule.after(replace(turn(), webhook=failing), 500, "").disable == ""
    for_long = replace(failing, failing_since=NOW - timedelta(seconds=3600))
    assert "no delivery succeeded since" in schedule.after(replace(turn(), webhook=for_long), 500, "").disable
    assert schedule.after(replace(turn(), webhook=for_long), 200, "").disable == ""
