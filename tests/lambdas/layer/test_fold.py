"""The fold's limits and what it reads and writes, against a model of the table."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from exactly_once.contracts import Contract
from exactly_once.fold import Effects, Fold
from exactly_once.outbox import Message
from exactly_once.quarantine import Quarantine
from exactly_once.table import Item, Key, size
from exactly_once.window import Window, digest, pad
from tests.lambdas.layer.model import S3, DynamoDB, Kinesis, cancelled, client_error
from tests.lambdas.layer.world import Put

SHARD = "shardId-000000000000"
NOW = 1_790_000_000.0


class Note(msgspec.Struct, frozen=True):
    """An event that is written on several pages."""

    id: str
    pages: list[str] = []
    words: int = 1
    messages: int = 0


CONTRACT = Contract(Note, event_id=lambda note: note.id)


def keys(note: Note) -> Iterable[Key]:
    """Return the note's pages."""
    return [Key("page", page) for page in note.pages]


def step(items: Mapping[Key, Item | None], note: Note) -> Effects:
    """Count notes on each page, and write as many words beside."""
    states = {
        key: {"notes": int((item or {}).get("notes", 0)) + 1, "words": "w" * note.words} for key, item in items.items()
    }
    return Effects(states, [Message(f"{note.id}-{number}", "noted", {}) for number in range(note.messages)])


class Setting:
    """A fold on a table and a bucket of its own."""

    def __init__(self, **settings: Any) -> None:
        self.table = DynamoDB()
        self.bucket = S3()
        self.kinesis = Kinesis({SHARD: ()})
        self.settings: dict[str, Any] = {"contract": CONTRACT, "keys": keys, "step": step} | settings
        self.fold = self.container()

    def container(self, **settings: Any) -> Fold[Any]:
        """Return a fold as another container has it."""
        return Fold(
            "states",
            "notes",
            "one",
            **self.settings | settings,
            quarantine=Quarantine("bucket", "bad", "", self.bucket),
            client=self.table,
            kinesis=self.kinesis,
        )

    def handle(self, *puts: Put, fold: Fold[Any] | None = None, shard: str = SHARD, milliseconds: int = 60_000) -> Any:
        """Hand records over and return the answer."""

        class Context:
            def get_remaining_time_in_millis(self) -> int:
                return milliseconds

        return (fold or self.fold).handle({"Records": [put.lambda_record(shard) for put in puts]}, Context())

    def notes(self) -> dict[str, int]:
        """Return the count of each page."""
        return {sk: int(item["notes"]) for (_, sk), item in self.table.plain("page").items()}

    def checkpoint(self, shard: str = SHARD) -> tuple[int, int]:
        """Return the shard's checkpoint."""
        item = self.table.plain("checkpoint#one#notes")["checkpoint#one#notes", shard]
        return int(item["sequence"]), int(item["part"])


def put(sequence: int, note: Note | bytes, arrived_at: float = NOW) -> Put:
    """Return a record."""
    return Put(note if isinstance(note, bytes) else msgspec.json.encode(note), arrived_at, sequence)


DONE: dict[str, list[Any]] = {"batchItemFailures": []}


def test_the_table_holds_what_is_documented() -> None:
    setting = Setting()

    assert setting.handle(put(8, Note("a", ["p"], messages=1)), put(10, Note("b", ["p"]))) == DONE

    place = "0" * 127 + "10"
    assert setting.table.plain("checkpoint#") == {
        ("checkpoint#one#notes", SHARD): {"sequence": place, "part": 0, "arrived_at": int(NOW)}
    }
    assert setting.table.plain("window#") == {
        (f"window#one#notes#{SHARD}", f"{place}#0"): {
            "ids": array("Q", sorted([digest("a"), digest("b")])).tobytes(),
            "arrived_at": int(NOW),
            "expires_at": int(NOW) + 900 + 86_400,
        }
    }
    assert setting.table.plain("page") == {("page", "p"): {"notes": 2, "words": "w"}}
    ((key, message),) = setting.table.plain("outbox#").items()
    assert key == ("outbox#a-0", "outbox")
    assert (message["kind"], message["body"]) == ("noted", "{}")
    assert message["expires_at"] > time.time() + 86_400
    assert len(setting.table.transactions) == 1


@pytest.mark.parametrize(
    ("count", "transactions"),
    [pytest.param(97, 1, id="fits"), pytest.param(98, 2, id="one more")],
)
def test_a_transaction_writes_at_most_97_items_beside_its_own_two(count: int, transactions: int) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html: 100 actions."""
    setting = Setting()

    setting.handle(*(put(number, Note(str(number), [str(number)])) for number in range(1, count + 1)))

    assert len(setting.table.transactions[0]) == 99
    assert len(setting.table.transactions) == transactions
    assert setting.notes() == {str(number): 1 for number in range(1, count + 1)}


def test_messages_count_among_the_97() -> None:
    setting = Setting()

    setting.handle(*(put(number, Note(str(number), ["p"], messages=30)) for number in range(1, 5)))

    assert [len(actions) for actions in setting.table.transactions] == [2 + 1 + 90, 2 + 1 + 30]
    assert setting.notes() == {"p": 4}


def test_a_transaction_stays_below_4_mb() -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html: 4 MB in all."""
    setting = Setting()

    setting.handle(*(put(number, Note(str(number), [str(number)], words=390_000)) for number in range(1, 21)))

    sizes = [sum(size(action["Put"]["Item"]) for action in actions) for actions in setting.table.transactions]
    assert max(sizes) < 4_000_000
    assert len(sizes) == 3
    assert len(setting.notes()) == 20


def test_a_record_of_many_items_is_applied_in_parts_and_resumed_between_them() -> None:
    setting = Setting()
    record = put(5, Note("a", [str(number) for number in range(250)]))
    setting.handle(put(1, Note("z", ["first"])))
    first = setting.table.transact_write_items

    def second_fails(TransactItems: list[Any]) -> Any:  # noqa: N803
        if setting.checkpoint() == (5, 97):
            raise client_error("ValidationException")
        return first(TransactItems)

    setting.table.transact_write_items = second_fails  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="ValidationException"):
        setting.handle(record)
    setting.table.transact_write_items = first  # type: ignore[method-assign]
    assert setting.checkpoint() == (5, 97)
    assert len(setting.table.plain("window#")) == 1, "its id is known when all parts are done"

    assert setting.handle(record, put(6, Note("a")), fold=setting.container()) == DONE

    assert setting.notes() == {"first": 1} | {str(number): 1 for number in range(250)}
    assert setting.checkpoint() == (6, 0)
    assert len(setting.table.plain("window#")) == 2


def test_a_record_that_fits_into_no_transaction_is_an_error() -> None:
    setting = Setting()
    with pytest.raises(ValueError, match="Record 7: the effects do not fit into a transaction"):
        setting.handle(put(7, Note("a", ["p"], messages=97)))
    assert setting.table.items == {}


def test_a_step_writes_its_keys_only_and_leaves_what_it_is_given() -> None:
    def elsewhere(items: Mapping[Key, Item | None], note: Note) -> Effects:
        return Effects({Key("page", "other"): {}})

    def in_place(items: Mapping[Key, Any], note: Note) -> Effects:
        for item in items.values():
            item["notes"] = 7
        return Effects()

    setting = Setting()
    with pytest.raises(ValueError, match="Record 7: an item is written that is not among its keys"):
        setting.handle(put(7, Note("a", ["p"])), fold=setting.container(step=elsewhere))
    setting.handle(put(7, Note("a", ["p"])))
    with pytest.raises(TypeError):
        setting.handle(put(8, Note("b", ["p"])), fold=setting.container(step=in_place))
    assert setting.checkpoint() == (7, 0)


def test_malformed_records_are_kept_with_reason_and_place_and_passed(capsys: pytest.CaptureFixture[str]) -> None:
    setting = Setting()

    setting.handle(put(3, b'{"id": 3}'), put(4, Note("a", ["p"])), put(5, Note("a", ["p"])))

    ((key, body),) = setting.bucket.objects.items()
    assert key == f"bad/{SHARD}/3.json"
    assert json.loads(body) == {
        "reason": "Expected `str`, got `int` - at `$.id`",
        "data": "eyJpZCI6IDN9",
        "source": "moves",
        "position": {"shard": SHARD, "sequence": "3"},
        "partition_key": "an account",
        "arrived_at": "2026-09-21T14:13:20+00:00",
    }
    assert setting.notes() == {"p": 1}
    assert setting.checkpoint() == (5, 0)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {name: printed[name] for name in ("Records", "Duplicates", "Malformed", "service")} == {
        "Records": [3],
        "Duplicates": [1],
        "Malformed": [1],
        "service": "notes",
    }


def test_many_malformed_records_are_passed_step_by_step() -> None:
    setting = Setting()

    setting.handle(*(put(number, b"?%d" % number) for number in range(1, 201)))

    assert len(setting.bucket.objects) == 200
    assert [int(actions[0]["Put"]["Item"]["sequence"]["S"]) for actions in setting.table.transactions] == [97, 194, 200]


def test_a_deleted_checkpoint_starts_the_consumer_anew() -> None:
    setting = Setting()
    setting.handle(put(1, Note("a", ["p"])), put(2, Note("b", ["p"])))
    setting.table.items = {key: item for key, item in setting.table.items.items() if key[0].startswith("window#")}

    setting.handle(put(1, Note("a", ["p"])), put(2, Note("b", ["p"])), put(3, Note("b", ["p"])))

    assert setting.notes() == {"p": 2}


def test_the_checkpoint_stays_where_the_quarantine_cannot_be_written() -> None:
    setting = Setting()

    def refuse(**request: Any) -> None:
        raise client_error("AccessDenied")

    setting.bucket.put_object = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(ClientError, match="AccessDenied"):
        setting.handle(put(3, b"?"))
    assert setting.table.items == {}


@pytest.mark.parametrize(
    "reason",
    [
        cancelled("None", "TransactionConflict"),
        cancelled("None", "None", "ThrottlingError"),
        cancelled("ProvisionedThroughputExceeded"),
        client_error("ThrottlingException"),
        client_error("TransactionInProgressException"),
    ],
    ids=lambda error: str(error.response.get("CancellationReasons", error.response["Error"]["Code"])),
)
def test_the_same_chunk_is_tried_again_after(reason: ClientError) -> None:
    setting = Setting()
    setting.table.failures = [reason, reason]

    assert setting.handle(put(3, Note("a", ["p"]))) == DONE

    assert setting.table.calls == ["get_item", "batch_get_item", *3 * ["transact_write_items"]]
    assert setting.notes() == {"p": 1}


@pytest.mark.parametrize(
    "reason",
    [
        cancelled("None", "None", "ValidationError"),
        cancelled("TransactionConflict", "ItemCollectionSizeLimitExceeded"),
        client_error("AccessDeniedException"),
    ],
    ids=lambda error: str(error.response.get("CancellationReasons", error.response["Error"]["Code"])),
)
def test_other_refusals_are_raised(reason: ClientError) -> None:
    setting = Setting()
    setting.table.failures = [reason]

    with pytest.raises(ClientError, match=reason.response["Error"]["Code"]):
        setting.handle(put(3, Note("a", ["p"])))
    assert setting.table.calls.count("transact_write_items") == 1


def test_a_commit_of_somebody_else_in_between_is_found_and_nothing_applied_twice() -> None:
    setting = Setting()
    setting.handle(put(1, Note("a", ["p"])))
    records = (put(2, Note("b", ["p"])), put(3, Note("c", ["p"])))
    read, table = setting.table.batch_get_item, setting.table

    def overtaken(RequestItems: Any) -> Any:  # noqa: N803
        table.batch_get_item = read  # type: ignore[method-assign]
        answer = read(RequestItems)
        setting.handle(records[0], fold=setting.container())
        return answer

    table.batch_get_item = overtaken  # type: ignore[method-assign]
    assert setting.handle(*records) == DONE

    assert setting.notes() == {"p": 3}
    assert setting.checkpoint() == (3, 0)
    assert table.calls.count("transact_write_items") == 1 + 1 + 2


def test_what_does_not_fit_into_the_time_is_handed_back() -> None:
    setting = Setting()
    setting.table.failures = [cancelled("TransactionConflict")] * 100
    done = time.monotonic()

    answer = setting.handle(put(3, Note("a", ["p"])), put(4, Note("b", ["p"])), milliseconds=3_200)

    assert answer == {"batchItemFailures": [{"itemIdentifier": "3"}]}
    assert time.monotonic() - done < 1
    assert setting.table.items == {}
    setting.table.failures = []
    assert setting.handle(put(3, Note("a", ["p"])), put(4, Note("b", ["p"]))) == DONE
    assert setting.notes() == {"p": 2}


def test_only_what_is_left_is_handed_back() -> None:
    setting = Setting()
    commit = setting.table.transact_write_items

    def slow(TransactItems: list[Any]) -> Any:  # noqa: N803
        time.sleep(0.2)
        return commit(TransactItems)

    setting.table.transact_write_items = slow  # type: ignore[method-assign]
    notes = [put(number, Note(str(number), [str(number)])) for number in range(1, 200)]

    answer = setting.handle(*notes, milliseconds=3_100)

    assert answer == {"batchItemFailures": [{"itemIdentifier": "98"}]}
    assert len(setting.notes()) == 97


@pytest.mark.parametrize(
    ("later", "notes"),
    [pytest.param(890, 1, id="in the window"), pytest.param(1100, 2, id="after it: the documented limit")],
)
@pytest.mark.parametrize("cold", [False, True], ids=["same container", "another container"])
def test_a_duplicate_is_recognised_for_the_window(later: float, notes: int, cold: bool) -> None:
    setting = Setting()
    setting.handle(put(1, Note("a", ["p"])))
    setting.handle(put(2, Note("b", ["q"]), NOW + later))

    setting.handle(put(3, Note("a", ["p"]), NOW + later), fold=setting.container() if cold else setting.fold)

    assert setting.notes()["p"] == notes


def test_a_container_reads_only_what_it_does_not_know_yet() -> None:
    setting = Setting()
    other = setting.container()
    for number in range(1, 21):
        setting.handle(put(number, Note(str(number), ["p"]), NOW + number))
    setting.handle(put(21, Note("x", ["p"])), fold=other)
    assert setting.table.calls[-12:].count("query") == 10, "two items a page"
    setting.table.calls.clear()

    setting.handle(put(22, Note("y", ["p"])))
    setting.handle(put(23, Note("z", ["p"])))

    assert setting.table.calls.count("query") == 1, "what the other container wrote, and nothing after its own"
    assert setting.notes() == {"p": 23}


@pytest.mark.parametrize(
    "parents",
    [
        pytest.param({"child": ["middle"], "middle": [SHARD], SHARD: []}, id="split twice"),
        pytest.param({"child": ["other", SHARD], "other": [], SHARD: []}, id="merged"),
        pytest.param({"child": ["middle"], "middle": [SHARD, "expired"], SHARD: []}, id="an ancestor is gone"),
    ],
)
def test_a_new_shard_knows_what_its_ancestors_brought(parents: dict[str, list[str]]) -> None:
    setting = Setting()
    setting.kinesis.parents = parents
    setting.handle(put(9, Note("a", ["p"])))

    setting.handle(put(1, Note("a", ["p"]), NOW + 60), shard="child")
    setting.handle(put(2, Note("a", ["p"]), NOW + 60), shard="child", fold=setting.container())

    assert setting.notes() == {"p": 1}
    assert setting.checkpoint("child") == (2, 0)


def test_messages_of_a_rebuilt_past_are_not_sent_again() -> None:
    setting = Setting(relay_after=NOW)

    setting.handle(put(1, Note("old", ["p"], messages=1), NOW - 1), put(2, Note("new", ["p"], messages=1), NOW))

    assert set(setting.table.plain("outbox#")) == {("outbox#new-0", "outbox")}
    assert setting.notes() == {"p": 2}


def test_records_of_two_shards_are_refused() -> None:
    event = {"Records": [put(1, Note("a")).lambda_record(shard) for shard in ("one", "two")]}
    with pytest.raises(ValueError, match="several shards"):
        Setting().fold.handle(event)


def test_the_environment_describes_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "STATE_TABLE": "t",
        "CONSUMER": "c",
        "INCARNATION": "i",
        "QUARANTINE_BUCKET": "b",
        "QUARANTINE_PREFIX": "q",
        "WINDOW_SECONDS": "60",
        "RELAY_AFTER": "2026-09-21T14:13:20Z",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)

    fold = Fold.from_environment(CONTRACT, keys, step)

    assert (fold._table.name, fold._scope, fold._window, fold._relay_after) == ("t", "i#c", timedelta(minutes=1), NOW)
    assert (fold._quarantine.bucket, fold._quarantine.prefix) == ("b", "q")


def test_the_window_holds_a_million_ids_in_little_more_than_8_bytes_each() -> None:
    window = Window(timedelta(minutes=15))
    ids = [digest(str(number)) for number in range(200_000)]
    for first in range(0, len(ids), 500):
        window.add(array("Q", sorted(ids[first : first + 500])), NOW + first / 1000)

    runs = [run for bucket in window._buckets.values() for run in bucket]

    assert all(number in window for number in ids[::1000])
    assert digest("another") not in window
    assert sum(len(run) for run in runs) == len(ids)
    assert len(runs) < 30
    window.forget(NOW + 10_000)
    assert ids[0] not in window


def test_sequence_numbers_order_as_numbers() -> None:
    numbers = [5, 49, 50, 100, 10**56, 10**127]
    assert sorted(map(pad, map(str, numbers))) == [pad(str(number)) for number in numbers]
    assert {len(pad(str(number))) for number in numbers} == {129}
