"""One run of a job: its script fetched, executed and judged.

Everything a run does it does with the session of the job's role, as on AWS:
https://docs.aws.amazon.com/glue/latest/dg/create-an-iam-role.html
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from local.aws import emulator
from local.aws.emulator import AwsError, Credentials, Payload
from local.aws.glue import process
from local.aws.glue.logs import LogStream
from local.launcher import layout, spark

LOG_GROUP = "/aws-glue/jobs"

UNSUPPORTED_ARGUMENTS = {
    "--enable-glue-datacatalog": "Spark has no metastore here: read and write S3 paths, use the Glue API for tables",
    "--additional-python-modules": "nothing is installed at run time here: add the module to the emulator's lock file",
}
"""Special arguments (https://docs.aws.amazon.com/glue/latest/dg/aws-glue-programming-etl-glue-arguments.html) whose
absence a script would notice; others, such as metrics, are passed on and have no effect."""

_slots = threading.BoundedSemaphore(max(2, os.cpu_count() or 2))
"""As many runs at once as there are cores; others wait in STARTING. On AWS every run has workers of its own."""


class JobFailureError(Exception):
    """The script could not be started or did not succeed; the message is the run's error message."""


@dataclass
class JobRun:
    """A run under way: ``record`` is what GetJobRun returns, ``job`` the definition it was started with."""

    job: Payload
    record: Payload
    arguments: Mapping[str, str]
    account: str
    region: str
    cancelled: threading.Event = field(default_factory=threading.Event)
    running_since: float | None = None

    def execute(self) -> None:
        """Take the run from STARTING to SUCCEEDED, FAILED, STOPPED or TIMEOUT."""
        try:
            with (
                _slot(self.cancelled),
                tempfile.TemporaryDirectory(prefix="glue-", dir=emulator.state_folder()) as folder,
            ):
                self._run_in(Path(folder))
        except process.CancelledError:
            self._finish("STOPPED")
        except process.TimedOutError:
            self._finish("TIMEOUT")
        except JobFailureError as failure:
            self._finish("FAILED", str(failure))
        except Exception as error:
            self._finish("FAILED", f"Internal service error: {error}")
            raise
        else:
            self._finish("SUCCEEDED")

    def stop(self) -> None:
        """Ask the run to end; it becomes STOPPED when its process is gone."""
        self._update(JobRunState="STOPPING")
        self.cancelled.set()

    def _run_in(self, folder: Path) -> None:
        for name, reason in UNSUPPORTED_ARGUMENTS.items():
            if self.arguments.get(name, "false").lower() != "false":
                raise JobFailureError(f"{name} is not supported: {reason}.")
        credentials = self._credentials()
        s3 = emulator.client("s3", credentials, self.region)
        script, failure = folder / "script.py", folder / "failure"
        _fetch(s3, self.job["Command"]["ScriptLocation"], script)
        environment = self._environment(s3, folder) | credentials.environment()
        client = emulator.client("logs", credentials, self.region)
        logs = [
            LogStream(folder / name, client, f"{LOG_GROUP}/{name}", self.record["Id"]) for name in ("output", "error")
        ]

        def send_logs(*, everything: bool = False) -> None:
            for log in logs:
                log.send(everything=everything)

        options = [text for pair in self.arguments.items() for text in pair]
        self.running_since = now()
        self._update(JobRunState="RUNNING")
        try:
            code = process.run(
                [sys.executable, "-P", Path(__file__).with_name("driver.py"), failure, script, *options],
                environment=environment,
                folder=folder,
                seconds=60 * self.record["Timeout"],
                cancelled=self.cancelled,
                tick=send_logs,
            )
        finally:
            send_logs(everything=True)
        if code:
            raise JobFailureError(failure.read_text() if failure.exists() else f"Command failed with exit code {code}")

    def _credentials(self) -> Credentials:
        """Return the session of the job's role, which CreateJob takes as a name or an ARN."""
        role = self.job["Role"]
        role_arn = role if role.startswith("arn:") else f"arn:aws:iam::{self.account}:role/{role}"
        try:
            return emulator.service_role_credentials(role_arn, "glue.amazonaws.com", "GlueJobRunnerSession")
        except AwsError as error:
            raise JobFailureError(
                f"Role {role_arn} should be given assume role permissions for Glue Service."
            ) from error

    def _environment(self, s3: Any, folder: Path) -> dict[str, str]:
        """Return all the variables of the process: nothing of the machine's own AWS or Spark settings gets in."""
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "TZ": "UTC",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(self._fetch_modules(s3, folder / "modules")),
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": emulator.endpoint(),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if is_spark(self.job):
            try:
                installation = spark.installed(layout.JARS)
            except spark.SetupError as error:
                raise JobFailureError(str(error)) from error
            variables["PYSPARK_PYTHON"] = sys.executable
            variables |= installation.environment(folder, self._spark_properties(folder))
        return variables

    def _spark_properties(self, folder: Path) -> dict[str, str]:
        """Return how Spark reaches S3, and what the job's ``--conf`` argument says.

        Output is committed by Hadoop's renaming committer, version 1, Spark's default: slower on S3 than others, but
        nothing of a failed task is published, and overwriting single partitions works.
        """
        properties = {
            "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
            "spark.hadoop.fs.s3a.endpoint": emulator.endpoint(),
            "spark.hadoop.fs.s3a.endpoint.region": self.region,
            "spark.hadoop.fs.s3a.path.style.access": "true",
            "spark.hadoop.fs.s3a.connection.ssl.enabled": "false",
            "spark.hadoop.fs.s3a.aws.credentials.provider": "com.amazonaws.auth.EnvironmentVariableCredentialsProvider",
            "spark.hadoop.fs.s3a.buffer.dir": str(folder),
        }
        for setting in self.arguments.get("--conf", "").split(" --conf "):
            name, separator, value = setting.strip().partition("=")
            if separator:
                properties[name] = value
        return properties

    def _fetch_modules(self, s3: Any, folder: Path) -> list[str]:
        """Fetch what ``--extra-py-files`` names, Python files and zip archives; return their places to import from."""
        folder.mkdir()
        places = [str(folder)]
        for uri in filter(None, self.arguments.get("--extra-py-files", "").split(",")):
            file = folder / uri.rsplit("/", 1)[-1]
            _fetch(s3, uri.strip(), file)
            if file.suffix != ".py":
                places.append(str(file))
        return places

    def _finish(self, state: str, message: str = "") -> None:
        if message:
            self._update(ErrorMessage=message)
        completed = now()
        seconds = round(completed - self.running_since) if self.running_since else 0
        self._update(JobRunState=state, CompletedOn=completed, ExecutionTime=seconds)

    def _update(self, **members: Any) -> None:
        self.record.update(members, LastModifiedOn=now())


def is_spark(job: Payload) -> bool:
    """Return whether the job's script gets Spark; otherwise it is a Python shell job."""
    return bool(job["Command"]["Name"] == "glueetl")


def now() -> float:
    """Return the time as the API gives it: seconds since the epoch, with milliseconds."""
    return round(time.time(), 3)


@contextmanager
def _slot(cancelled: threading.Event) -> Iterator[None]:
    """Wait for one of the machine's places to run a job."""
    while not _slots.acquire(timeout=0.1):
        if cancelled.is_set():
            raise process.CancelledError
    try:
        yield
    finally:
        _slots.release()


def _fetch(s3: Any, uri: str, file: Path) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        file.write_bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except ClientError as error:
        details, status = error.response["Error"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        raise JobFailureError(
            f"LAUNCH ERROR | Error downloading from S3 for bucket: {bucket}, key: {key}.{details['Message']} "
            f"(Service: Amazon S3; Status Code: {status}; Error Code: {details['Code']})"
            "Please refer logs for details."
        ) from error
