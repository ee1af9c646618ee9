"""Random schedules of deliveries, for the layer's own code.

An invocation runs in a greenlet that is suspended at every request to AWS, before and after it takes effect, and in
every wait. There it may be killed, left behind as a zombie that goes on later, or overtaken by invocations of other
shards and by redeliveries. All is decided by the seed.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import msgspec
from greenlet import GreenletExit, getcurrent, greenlet

from exactly_once.contracts import Contract
from exactly_once.fold import Effects, Fold
from exactly_once.outbox import Message
from exactly_once.quarantine import Quarantine
from exactly_once.table import Item, Key, Table
from tests.lambdas.layer.model import S3, DynamoDB, Kinesis

WINDOW = 100.0
STREAM = "arn:aws:kinesis:eu-west-1:123456789012:stream/moves"
ACCOUNTS = "abcd"


class Move(msgspec.Struct, frozen=True):
    """An event: money comes to an account, is spent if there is enough, or a note goes to many of its pockets."""

    id: str
    kind: Literal["add", "spend", "many"]
    account: str
    amount: int


CONTRACT = Contract(Move, event_id=lambda move: move.id)


def keys(move: Move) -> list[Key]:
    """Return the items of an event: adding also changes a total that all shards share."""
    if move.kind == "many":
        return [Key(f"pocket#{move.account}", str(number)) for number in range(move.amount)]
    account = Key(f"account#{move.account}", "balance")
    return [account, Key("total", "all", shared=True)] if move.kind == "add" else [account]


def unguarded_keys(move: Move) -> list[Key]:
    """Return the items of an event, hiding that shards share the total."""
    return [Key(key.pk, key.sk) for key in keys(move)]


def step(items: Mapping[Key, Item | None], move: Move) -> Effects:
    """Apply an event; what is refused, and every third addition, is told."""
    amount = {"add": move.amount, "spend": -move.amount, "many": 1}[move.kind]
    states = {key: {"sum": int((item or {"sum": 0})["sum"]) + amount} for key, item in items.items()}
    if move.kind == "spend" and any(state["sum"] < 0 for state in states.values()):
        return Effects(messages=[Message(move.id, "refused", {"account": move.account})])
    told = move.kind == "add" and move.amount % 3 == 0
    return Effects(states, [Message(move.id, "added", {"amount": move.amount})] if told else [])


@dataclass(frozen=True)
class Rules:
    """What the world is made of; a control changes one of them and must be found out."""

    window: float = WINDOW
    keys: Callable[[Move], Iterable[Key]] = keys
    checkpoint_only_smaller: bool = False
    window_lags: int = 0
    no_proof: bool = False
    no_ancestors: bool = False
    one_incarnation: bool = False


@dataclass
class Put:
    """A record of the stream."""

    data: bytes
    arrived_at: float
    sequence: int = 0

    def lambda_record(self, shard: str) -> dict[str, Any]:
        """Return the record as Lambda hands it over."""
        return {
            "eventID": f"{shard}:{self.sequence}",
            "eventSourceARN": STREAM,
            "kinesis": {
                "data": base64.b64encode(self.data).decode(),
                "sequenceNumber": str(self.sequence),
                "partitionKey": "an account",
                "approximateArrivalTimestamp": self.arrived_at,
            },
        }


@dataclass
class Lane:
    """A shard and its event source mapping: what is to be delivered, and the invocation under way."""

    shard: str
    parents: list[Lane] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)
    size: int = 1
    failed: int = 0
    running: greenlet | None = None

    @property
    def open(self) -> bool:
        """Return whether something is left to do."""
        return bool(self.puts or self.running)

    @property
    def waits(self) -> bool:
        """Return whether something is left to do in an ancestor, which comes first."""
        return any(parent.open or parent.waits for parent in self.parents)


@dataclass(frozen=True)
class Context:
    """How long an invocation may take: until the world's clock shows ``limit``."""

    world: World
    limit: float

    def get_remaining_time_in_millis(self) -> int:
        """Return what is left."""
        return int(1000 * (self.limit - self.world.clock))


class World:
    """A stream with duplicates and damaged records, its mapping, containers, table and quarantine."""

    def __init__(self, seed: int, rules: Rules) -> None:
        self.random = random.Random(seed)
        self.rules = rules
        self.clock = 0.0
        self.table = DynamoDB(self._suspend, faults=self.random.choice([0, 0.05]), seed=seed)
        self.table.checkpoint_only_smaller = rules.checkpoint_only_smaller
        self.table.window_lags = rules.window_lags
        self.bucket = S3(self._suspend)
        self.kinesis = Kinesis({})
        self.incarnation = 0
        self.gives_up = self.random.random() < 0.2
        self.containers: list[Fold[Move]] = []
        self.zombies: list[greenlet] = []
        self.moves: list[Move] = []
        self.first_arrival: dict[bytes, float] = {}
        self.damaged: set[bytes] = set()

    # What the layer takes for the module time.

    def monotonic(self) -> float:
        """Return the time, which passes with every request."""
        return self.clock

    time = monotonic

    def sleep(self, seconds: float) -> None:
        """Wait, that is, let others go on."""
        self.clock += seconds
        self._suspend()

    def _suspend(self) -> None:
        self.clock += 0.1
        parent = getcurrent().parent
        if parent is not None:
            parent.switch()

    def run(self) -> None:
        """Live through a stream, sometimes through a second one of the same name."""
        for _ in range(self.random.choice([1, 1, 1, 2])):
            lanes = self._stream()
            self.containers = [self._container() for _ in range(3)]
            while busy := [lane for lane in lanes if lane.open]:
                self._advance(self.random.choice([lane for lane in busy if not lane.waits]))
                self._wake_zombies(0.3)
            while self.zombies:
                self._wake_zombies(1.0)
            self.incarnation += not self.rules.one_incarnation

    def wrong(self) -> list[str]:
        """Return where states, messages or quarantine differ from one delivery of each event in order."""
        expected: dict[Key, Item] = {}
        told: dict[str, str] = {}
        for move in self.moves:
            effects = step({key: expected.get(key) for key in keys(move)}, move)
            expected.update(effects.states)
            told |= {f"outbox#{message.id}": message.kind for message in effects.messages}
        states = {
            key: int(item["sum"]) for prefix in ("account#", "pocket#", "total") for key, item in self._plain(prefix)
        }
        outbox = {pk: item["kind"] for (pk, _), item in self._plain("outbox#")}
        kept = {base64.b64decode(json.loads(body)["data"]) for body in self.bucket.objects.values()}
        return [
            f"{name}: {found} instead of {right}"
            for name, found, right in (
                ("states", states, {(key.pk, key.sk): item["sum"] for key, item in expected.items()}),
                ("messages", outbox, told),
                ("quarantine", kept, self.damaged),
            )
            if found != right
        ]

    def _plain(self, prefix: str) -> Iterable[tuple[tuple[str, str], dict[str, Any]]]:
        return self.table.plain(prefix).items()

    def _stream(self) -> list[Lane]:
        """Put events, their duplicates and damaged ones on shards, which may split and merge in between."""
        lanes = [Lane(f"shardId-{number:012}") for number in range(self.random.randint(1, 2))]
        active = list(lanes)
        at = {account: self.random.choice(active) for account in ACCOUNTS}
        arrived_at, sent = 1e9 + self.clock, list[tuple[float, Move]]()
        reshards = not self.gives_up and self.random.random() < 0.4
        for _ in range(self.random.randint(4, 24)):
            arrived_at += 2 * WINDOW if self.random.random() < 0.03 else self.random.choice([0.1, 1, 5, 20])
            if reshards and self.random.random() < 0.1:
                parents = self.random.sample(active, self.random.randint(1, min(2, len(active))))
                children = [Lane(f"shardId-{len(lanes) + n:012}", parents) for n in range(3 - len(parents))]
                active = [lane for lane in active if lane not in parents] + children
                lanes += children
                at = {a: self.random.choice(children) if lane in parents else lane for a, lane in at.items()}
            sent.append((arrived_at, self._move()))
            again = [move for when, move in sent if arrived_at - when < WINDOW - 1]
            for move in [sent[-1][1], *(self.random.choice(again) for _ in range(self.random.choice([0, 0, 1, 2])))]:
                arrived_at += 0.01
                put = Put(msgspec.json.encode(move), arrived_at)
                self.first_arrival.setdefault(put.data, arrived_at)
                at[move.account].puts.append(put)
            if self.random.random() < 0.1:
                damaged = b"\xff damaged %d" % len(self.damaged)
                self.damaged.add(damaged)
                at[self.random.choice(ACCOUNTS)].puts.append(Put(damaged, arrived_at))
        for lane in lanes:
            sequence = self.random.choice([5, 95, 10**55])
            for put in lane.puts:
                sequence += self.random.randint(1, 4)
                put.sequence = sequence
        if not self.rules.no_ancestors:
            self.kinesis.parents = {lane.shard: [parent.shard for parent in lane.parents] for lane in lanes}
        return lanes

    def _move(self) -> Move:
        """Make an event. What a mapping may give up comes out of order, so it does not depend on any, nor has parts."""
        kind = self.random.choice(["add", "many"] if self.gives_up else ["add", "spend", "many"])
        amount = self.random.randint(1, 2 if kind == "many" and self.gives_up else 6)
        move = Move(f"e{len(self.moves)}", kind, self.random.choice(ACCOUNTS), amount)  # type: ignore[arg-type]
        self.moves.append(move)
        return move

    def _container(self) -> Fold[Move]:
        return Fold(
            "states",
            "tests",
            str(self.incarnation),
            CONTRACT,
            self.rules.keys,
            step,
            Quarantine("bucket", f"quarantine/{self.incarnation}", "", self.bucket),
            timedelta(seconds=self.rules.window),
            client=self.table,
            kinesis=self.kinesis,
        )

    def _advance(self, lane: Lane) -> None:
        """Let a shard's invocation go on, start one, or end one the hard way."""
        if lane.running is None:
            if lane.failed == 0:
                lane.size = self.random.randint(1, 8)
            self._start(lane)
        elif self.random.random() < 0.05:
            if self.random.random() < 0.5:
                self.zombies.append(lane.running)
            else:
                lane.running.throw(GreenletExit)
            lane.running = None
            self.containers.append(self._container())  # in place of the lost one
            self._failed(lane)
        else:
            lane.running.switch()

    def _start(self, lane: Lane) -> None:
        batch = lane.puts[: lane.size]
        self.random.shuffle(self.containers)
        fold = self.containers.pop() if self.containers else self._container()
        context = Context(self, self.clock + self.random.choice([4, 8, 60, 60]))

        def invocation() -> None:
            handle = self._without_proof if self.rules.no_proof else fold.handle
            answer = handle({"Records": [put.lambda_record(lane.shard) for put in batch]}, context)
            if lane.running is not getcurrent():
                return  # a zombie: nobody waits for its answer
            lane.running = None
            self.containers.append(fold)
            failures = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
            done = [str(put.sequence) for put in batch].index(failures[0]) if failures else len(batch)
            del lane.puts[:done]
            lane.failed = 0 if done else lane.failed
            if failures:
                self._failed(lane)

        lane.running = greenlet(invocation)
        lane.running.switch()

    def _failed(self, lane: Lane) -> None:
        """Deliver again, maybe half as much; a mapping that gives up leaves its batch to be replayed at the end."""
        lane.failed += 1
        if self.random.random() < 0.3:
            lane.size = max(1, lane.size // 2)
        if self.gives_up and lane.failed > 2:
            given_up, rest, last = lane.puts[: lane.size], lane.puts[lane.size :], lane.puts[-1]
            if all(last.arrived_at - self.first_arrival.get(put.data, 0.0) < WINDOW - 1 for put in given_up):
                again = [Put(put.data, last.arrived_at, last.sequence + n) for n, put in enumerate(given_up, 1)]
                lane.puts[:] = rest + again
                lane.failed = 0

    def _wake_zombies(self, share: float) -> None:
        for zombie in list(self.zombies):
            if self.random.random() < share:
                zombie.switch()
                if zombie.dead:
                    self.zombies.remove(zombie)

    def _without_proof(self, event: Mapping[str, Any], context: object) -> dict[str, list[dict[str, str]]]:
        """Apply a batch's events as they come."""
        table = Table("states", self.table)
        for record in event["Records"]:
            data = base64.b64decode(record["kinesis"]["data"])
            if not data.startswith(b"\xff"):
                move = CONTRACT.decode(data)
                states = step(table.get_all(keys(move), self.clock + 60), move).states
                if states:
                    table.transact([table.put(Key(key.pk, key.sk), states[key]) for key in states], self.clock + 60)
        return {"batchItemFailures": []}
