"""The layer on the embedded AWS: DynamoDB takes its requests and answers as the model does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from exactly_once.fold import Effects, Fold
from exactly_once.inbox import Inbox
from exactly_once.outbox import Message, Relay
from exactly_once.quarantine import Quarantine
from exactly_once.table import ConditionFailed, Item, Key, Table, serialize
from tests.conftest import Aws
from tests.lambdas.layer.model import Kinesis
from tests.lambdas.layer.test_fold import CONTRACT, DONE, NOW, SHARD, Note, keys, put, step

TABLE = "layer-states"


@pytest.fixture(scope="module")
def table(aws: Aws) -> Iterator[Any]:
    """A state table with a stream, as templates declare it."""
    client = aws.client("dynamodb")
    client.create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    aws.client("s3").create_bucket(Bucket=TABLE)
    yield client
    client.delete_table(TableName=TABLE)


def count(client: Any, page: str) -> int:
    """Return how many notes a page has."""
    item = Table(TABLE, client).get(Key("page", page))
    return int(item["notes"]) if item else 0


def test_a_fold_writes_once_whoever_delivers_what(table: Any, aws: Aws) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html"""
    kinesis, bucket = aws.client("kinesis"), Quarantine(TABLE, "bad", "", aws.client("s3"))
    kinesis.create_stream(StreamName="layer-notes", ShardCount=1)
    arn = kinesis.describe_stream_summary(StreamName="layer-notes")["StreamDescriptionSummary"]["StreamARN"]

    def shared(note: Note) -> list[Key]:
        return [key._replace(shared=True) for key in keys(note)]

    def container(consumer: str = "notes") -> Fold[Note]:
        return Fold(TABLE, consumer, "one", CONTRACT, shared, step, bucket, client=table, kinesis=kinesis)

    def handle(fold: Fold[Note], *numbers: int) -> Mapping[str, Any]:
        notes = [Note(f"n{number if number > 199 else number % 100}", [f"p{number % 3}"]) for number in numbers]
        records = [put(number, note).lambda_record(SHARD) for number, note in zip(numbers, notes, strict=True)]
        return fold.handle({"Records": [record | {"eventSourceARN": arn} for record in records]})

    first, second = container(), container()
    assert handle(first, *range(1, 61)) == DONE
    assert handle(second, *range(31, 100)) == DONE, "half of it is redelivered"
    assert handle(first, *range(131, 190)) == DONE, "produced twice"
    bad = put(190, b"?").lambda_record(SHARD) | {"eventSourceARN": arn}
    assert second.handle({"Records": [bad]}) == DONE
    # Another shard's fold writes the same pages between this one's read and commit.
    other = container("other")
    read = first._step

    def overtaken(items: Mapping[Key, Item | None], note: Note) -> Effects:
        first._step = read
        handle(other, 200)
        return read(items, note)

    first._step = overtaken
    assert handle(first, 203) == DONE

    assert [count(table, f"p{number}") for number in range(3)] == [33, 33, 33 + 2]
    assert aws.client("s3").list_objects_v2(Bucket=TABLE, Prefix=f"bad/{SHARD}/190")["KeyCount"] == 1


def test_a_record_of_more_items_than_a_transaction_holds_is_written_in_parts(table: Any, aws: Aws) -> None:
    bucket = Quarantine("none", "", "", aws.client("s3"))
    fold = Fold(TABLE, "parts", "one", CONTRACT, keys, step, bucket, client=table, kinesis=Kinesis({SHARD: ()}))
    pages = [f"part{number}" for number in range(200)]

    assert fold.handle({"Records": [put(5, Note("many", pages)).lambda_record(SHARD)]}) == DONE

    assert {count(table, page) for page in pages} == {1}


def test_an_inbox_takes_a_message_once_and_its_outbox_reaches_the_stream(table: Any, aws: Aws) -> None:
    inbox = Inbox(TABLE, timedelta(days=1), table)
    effect = {"Put": {"TableName": TABLE, "Item": serialize({"pk": "effect", "sk": "1", "at": int(NOW)})}}
    guarded = {"Put": effect["Put"] | {"ConditionExpression": "attribute_not_exists(pk)"}}

    assert inbox.once("m1", [guarded], [Message("m1-told", "told", {"to": "you"})])
    assert not inbox.once("m1", [guarded])
    with pytest.raises(ConditionFailed) as failed:
        inbox.once("m2", [guarded])

    assert failed.value.indexes == [0]
    streams = aws.client("dynamodbstreams")
    arn = table.describe_table(TableName=TABLE)["Table"]["LatestStreamArn"]
    records = []
    for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
        iterator = streams.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        records += streams.get_records(ShardIterator=iterator)["Records"]
    sent: list[Message] = []
    assert Relay(sent.append).handle({"Records": records}) == DONE
    assert [message for message in sent if message.kind == "told"] == [Message("m1-told", "told", {"to": "you"})]
