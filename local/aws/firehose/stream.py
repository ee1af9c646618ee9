"""A Firehose stream at work: one thread that moves its records through backup, transformation and delivery."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import emulator
from local.aws.emulator import AwsError
from local.aws.firehose import objects
from local.aws.firehose.access import Identity, Roles
from local.aws.firehose.conversion import convert, schema
from local.aws.firehose.destination import Bucket, Conversion, Destination
from local.aws.firehose.partitioning import MOST_PARTITIONS, PartitioningError, apart, keyed
from local.aws.firehose.quota import Quota
from local.aws.firehose.source import Reader
from local.aws.firehose.stages import DeliveryError, Partitions, Record, Stage, failure
from local.aws.firehose.transform import ENVELOPE_BYTES, transform

PARTITIONING_FAILED = "metadata-extraction-failed"
PARTITIONING_ERROR = "DynamicPartitioning.MetadataExtractionFailed"

_S3_ERRORS = {
    "AccessDenied": (
        "S3.AccessDenied",
        "Access was denied. Ensure that the trust policy for the provided IAM role allows Firehose to assume the role, "
        "and the access policy allows access to the S3 bucket.",
    ),
    "NoSuchBucket": (
        "S3.NoSuchBucket",
        "The specified bucket does not exist. Create the bucket or use a different bucket that does exist.",
    ),
}


class Pipeline:
    """Takes records and delivers them; ``version`` counts the configurations it has had."""

    def __init__(self, identity: Identity, destination: Destination) -> None:
        self.version = 1
        self._identity = identity
        self._destination = destination
        self._roles = Roles(identity.region)
        self._ids = map(f"{uuid.uuid4().int:039d}{{:017d}}".format, itertools.count())
        self._quota = Quota(identity.region)
        self._reader: Reader | None = None
        self._source: str | None = None
        self._changed = threading.Condition()
        """Guards what puts and the thread share: ``_incoming``, ``_woken`` and the destination."""
        self._incoming: list[Record] = []
        self._woken = False
        self._closing = False
        limits = destination.bucket.limits
        self._backup = Stage(limits, self._write_backup)
        self._transform = Stage(limits, self._run_transform, ENVELOPE_BYTES)
        self._good = Partitions(limits, self._write_good)
        self._failed = Partitions(limits, self._write_failed)
        self._stages = (self._backup, self._transform, self._good, self._failed)

    def start(self) -> None:
        """Begin to deliver."""
        self._adopt_limits()
        self._thread = emulator.in_background(self._run, f"firehose-{self._identity.name}")

    def read_from(self, stream_arn: str, role: str, since: datetime) -> None:
        """Take the records of a Kinesis stream that arrive at or after ``since``."""
        self._source = stream_arn
        self._reader = Reader(self._identity, stream_arn, role, since, self._accept, self._backlog, self._report)
        self._reader.start()

    def put(self, data: list[bytes]) -> list[str | None]:
        """Take records and return the ids they are given, None for those above the quota."""
        now = time.time()
        admitted = self._quota.admit([len(each) for each in data])
        records = [
            Record(next(self._ids), each, now) if fits else None for each, fits in zip(data, admitted, strict=True)
        ]
        taken = [record for record in records if record]
        self._accept(taken)
        self._identity.count("IncomingRecords", len(taken))
        self._identity.count("IncomingBytes", sum(len(record.data) for record in taken), "Bytes")
        if len(taken) < len(records):
            self._identity.count("ThrottledRecords", len(records) - len(taken))
        return [record.id if record else None for record in records]

    def update(self, destination: Destination) -> None:
        """Deliver to ``destination`` from now on, buffered records included."""
        with self._changed:
            self._destination = destination
            self.version += 1
            self._adopt_limits()
        self._wake()

    def close(self) -> None:
        """Deliver what is buffered, without a second try, and end."""
        if self._reader:
            self._reader.stop()
        self._closing = True
        self._wake()
        self._thread.join()

    def _adopt_limits(self) -> None:
        destination = self._destination
        self._good.limits = self._failed.limits = destination.bucket.limits
        if destination.backup:
            self._backup.limits = destination.backup.limits
        if destination.processing.transform:
            self._transform.limits = destination.processing.transform.limits

    def _backlog(self) -> int:
        return sum(stage.size for stage in self._stages)

    def _accept(self, records: list[Record]) -> None:
        with self._changed:
            self._incoming += records
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify()

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._woken, self._seconds_to_wait())
                self._woken, closing = False, self._closing
                records, self._incoming = self._incoming, []
                destination = self._destination
            if destination.backup:
                self._backup.add(records)
            records = self._take_apart(records)
            if destination.processing.transform:
                self._transform.add(records)
            else:
                self._assign(records)
            for stage in self._stages:
                stage.run(flush=closing)

    def _seconds_to_wait(self) -> float | None:
        due = [at for stage in self._stages if (at := stage.due_at()) is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    # --- Stages ---------------------------------------------------------------------------------------------------

    def _take_apart(self, records: list[Record]) -> list[Record]:
        """Return the records that ``records`` hold, as far as they can be taken apart."""
        deaggregation = self._destination.processing.deaggregation
        if deaggregation is None:
            return records
        parts = []
        for record in records:
            try:
                parts += apart(record, deaggregation)
            except PartitioningError as error:
                self._refuse(record, error)
        return parts

    def _assign(self, records: list[Record]) -> None:
        """Put records into the buffers of their partitions, of which there is one without dynamic partitioning."""
        expressions, query = self._destination.expressions, self._destination.processing.query
        if expressions is None:
            self._good.add(replace(record, values=()) if record.values else record for record in records)
            return
        for record in records:
            try:
                found = keyed(record, query) if query else record
                values = tuple((name, value) for name, value in found.values if name in expressions)
                if len(values) < len(expressions):
                    raise PartitioningError(
                        f"Partition keys are missing: {', '.join(expressions - dict(values).keys())}"
                    )
                assigned = replace(found, values=values)
                if assigned not in self._good and len(self._good) >= MOST_PARTITIONS:
                    self._identity.count("ActivePartitionsLimitExceeded", 1)
                    raise PartitioningError("Active partitions limit has been exceeded")
                self._good.add([assigned])
            except PartitioningError as error:
                self._refuse(record, error)
        if records:
            self._identity.count("PartitionCount", len(self._good))

    def _refuse(self, record: Record, error: PartitioningError) -> None:
        self._failed.add([failure(record, PARTITIONING_FAILED, 1, PARTITIONING_ERROR, str(error))])

    def _run_transform(self, batch: list[Record]) -> None:
        destination, settings = self._destination, self._destination.processing.transform
        if settings is None:  # an update removed it while records waited for it
            self._assign(batch)
            return
        role = destination.bucket.role
        outcome = transform(batch, settings, role, self._roles, self._identity, self._source)
        self._assign(outcome.good)
        self._failed.add(outcome.failed)
        for code, message in outcome.errors.items():
            self._report(self._roles, code, message, settings.function)

    def _write_good(self, batch: list[Record]) -> None:
        destination, bucket = self._destination, self._destination.bucket
        try:
            folder = objects.good_folder(bucket.prefix, _time_of(batch, bucket), dict(batch[0].values))
        except AwsError as error:  # an update asks for keys that the records did not get
            for record in batch:
                self._refuse(record, PartitioningError(error.message))
            return
        if destination.conversion:
            self._write_converted(batch, bucket, folder, destination.conversion)
            return
        body = b"".join(record.data + destination.processing.delimiter for record in batch)
        self._write("DeliveryToS3", batch, bucket, folder, body)

    def _write_converted(self, batch: list[Record], bucket: Bucket, folder: str, conversion: Conversion) -> None:
        try:
            converted = convert(batch, conversion, schema(conversion, self._roles, self._identity))
        except DeliveryError as error:
            self._report(self._roles, error.code, error.message)
            self._roles.forget()
            raise
        if converted.good:
            named = bucket if bucket.extension else replace(bucket, extension=".parquet")
            self._write("DeliveryToS3", converted.good, named, folder, converted.body)
        self._failed.add(converted.failed)
        for metric, records in (("SucceedConversion", converted.good), ("FailedConversion", converted.failed)):
            self._identity.count(f"{metric}.Records", len(records))
            self._identity.count(f"{metric}.Bytes", sum(len(record.data) for record in records), "Bytes")

    def _write_failed(self, batch: list[Record]) -> None:
        bucket = self._destination.bucket
        at = _time_of(batch, bucket)
        folder = objects.error_folder(bucket.prefix, bucket.error_prefix, at, dict(batch[0].values))
        self._write("", batch, bucket, folder, b"".join(record.data for record in batch))

    def _write_backup(self, batch: list[Record]) -> None:
        # Backup cannot be disabled once it is enabled, so that there is a bucket for every record that came here.
        bucket = self._destination.backup or self._destination.bucket
        folder = objects.good_folder(bucket.prefix, _time_of(batch, bucket), {})
        self._write("BackupToS3", batch, bucket, folder, b"".join(record.data for record in batch))

    def _write(self, metric: str, batch: list[Record], bucket: Bucket, folder: str, body: bytes) -> None:
        """Write ``body``, made of ``batch``, as one object; ``metric`` begins the names of its metrics, if it has any.

        Raises:
            DeliveryError: S3 refused it, or the role may not be assumed.
        """
        at = _time_of(batch, bucket)
        encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": bucket.key} if bucket.key else {}
        failure: DeliveryError | None = None
        try:
            self._roles.client(bucket.role, "s3").put_object(
                Bucket=bucket.name,
                Key=folder + objects.object_name(self._identity.name, self.version, at, bucket.extension),
                Body=objects.compress(body, bucket.compression),
                ContentType="application/octet-stream",
                **encryption,
            )
        except (AwsError, BotoCoreError, ClientError) as error:
            failure = _delivery_error(error)
        if metric:
            self._identity.count(f"{metric}.Success", 0 if failure else 1)
            self._identity.count(f"{metric}.DataFreshness", time.time() - at.timestamp(), "Seconds")
        if failure:
            self._identity.report(self._roles, bucket, self.version, failure.code, failure.message)
            self._roles.forget()
            raise failure
        if metric:
            self._identity.count(f"{metric}.Records", len(batch))
            self._identity.count(f"{metric}.Bytes", len(body), "Bytes")

    def _report(self, roles: Roles, code: str, message: str, processor: str | None = None) -> None:
        self._identity.report(roles, self._destination.bucket, self.version, code, message, processor)


def _time_of(batch: list[Record], bucket: Bucket) -> datetime:
    """Return when the oldest record of an object arrived, which is what its key tells."""
    return datetime.fromtimestamp(min(record.arrived_at for record in batch), UTC).astimezone(bucket.zone)


def _delivery_error(error: AwsError | BotoCoreError | ClientError) -> DeliveryError:
    code = "AccessDenied" if isinstance(error, AwsError) else type(error).__name__
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
    return DeliveryError(*_S3_ERRORS.get(code, (f"S3.{code}", str(error))))
