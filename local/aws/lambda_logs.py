"""The log of one invocation: written with the role of the function, and whole, without waiting for more.

https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html

The emulator collects what a worker writes to stderr and cannot know when that is all, so that it waits 50 ms after each
silent invocation and may cut a talkative one short. Here the worker ends each invocation's log with a mark.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from local.aws import emulator, iam, lambda_errors
from local.aws.emulator import AwsError
from local.aws.targets import Sender

_lambda = emulator.module("services.lambda_svc")
_logs = emulator.module("services.cloudwatch_logs")

_MARK = "\x1eend of invocation"
_LONGEST_WAIT = 1.0


def _up_to_the_mark(original: Callable[..., str]) -> Callable[..., str]:
    def drain(worker: Any) -> str:
        # A worker that died writes no mark, and neither does Node.js.
        if worker._proc is None or not str(worker.config.get("Runtime", "")).startswith("python"):
            return original(worker)
        lines: list[str] = []
        until = time.monotonic() + _LONGEST_WAIT
        while not lines or not lines[-1].endswith(_MARK):
            try:
                lines.append(worker._stderr_queue.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                return "\n".join(lines)
        lines[-1] = lines[-1].removesuffix(_MARK)
        return "\n".join(lines if lines[-1] else lines[:-1])

    return drain


def _if_allowed(original: Callable[..., None]) -> Callable[..., None]:
    """Leave out the log of a function whose role may not write it; its caller still gets the end of it.

    https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html
    """

    def emit(function: dict[str, Any], *rest: Any, **options: Any) -> None:
        if _may_log(function.get("config") or function):
            original(function, *rest, **options)

    return emit


def _may_log(config: dict[str, Any]) -> bool:
    sender = Sender("lambda.amazonaws.com", config["FunctionArn"])
    group = (config.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{config['FunctionName']}"
    resource = f"arn:aws:logs:{sender.region}:{sender.account}:log-group:{group}:log-stream:"
    actions = ["logs:CreateLogStream", "logs:PutLogEvents"]
    if group not in _logs._log_groups:
        actions.append("logs:CreateLogGroup")
    try:
        key = sender.credentials(config["Role"]).access_key
    except AwsError:
        return False
    return not any(iam.denial(key, iam.Check(action, resource, {}), sender.region) for action in actions)


emulator.patch(_lambda, "_emit_lambda_logs", _if_allowed)
emulator.patch_text(
    lambda_errors.runtime,
    "_PYTHON_WORKER_SCRIPT",
    lambda_errors.PYTHON_ANSWER,
    f"""        _answer = python_answer(handler_fn, event, context, code_dir)
        sys.stderr.flush()
        sys.__stderr__.write({_MARK + chr(10)!r})
        sys.__stderr__.flush()
        _real_stdout.write(_answer + "\\n")
""",
)
emulator.patch(lambda_errors.runtime.Worker, "_drain_stderr_bounded", _up_to_the_mark)
