"""AWS Lambda function errors as the runtimes report them: the exception's class, message and stack trace.

Retry and Catch of Step Functions, dead-letter queues and on-failure destinations all work on this answer:
https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
https://docs.aws.amazon.com/lambda/latest/dg/nodejs-exceptions.html

The emulator runs functions in worker processes, each with a small script that speaks lines of JSON. The source of
``python_answer`` and ``python_init_failure`` becomes part of the Python script, so both import what they need
themselves; ``_NODE`` becomes part of the Node.js script. An exception leaves the worker running, as on AWS: only a
crash or a timeout ends an execution environment.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from local.aws import emulator

Answer = dict[str, Any]


def python_answer(handler: Any, event: Any, context: Any, code_dir: str) -> str:
    """Run the handler and return the worker's answer line: its result, or its failure."""
    import json
    import os
    import traceback

    def failure(kind: str, message: str, frames: Any) -> str:
        places = [(code_dir, "/var/task")]
        places += [(layer, "/opt") for layer in os.environ.get("_LAMBDA_LAYERS_DIRS", "").split(os.pathsep) if layer]
        stack = traceback.format_list(frames)
        for folder, place in places:
            stack = [line.replace(folder, place) for line in stack]
        described = {"errorMessage": message, "errorType": kind, "requestId": context.aws_request_id}
        return json.dumps({"status": "ok", "failure": {**described, "stackTrace": stack}})

    try:
        result = handler(event, context)
    except Exception as error:
        # The first frame is this function's.
        return failure(type(error).__name__, str(error), traceback.extract_tb(error.__traceback__)[1:])
    try:
        return json.dumps({"status": "ok", "result": result})
    except Exception as error:
        return failure("Runtime.MarshalError", f"Unable to marshal response: {error}", [])


def python_init_failure(error: Any, module: str, handler: str) -> str:
    """Return the worker's answer line for an error raised while the function's module was loaded."""
    import json
    import sys
    import traceback

    kind, message, stack = type(error).__name__, str(error), traceback.format_tb(error.__traceback__)[1:]
    if isinstance(error, ImportError):
        kind, message, stack = "Runtime.ImportModuleError", f"Unable to import module '{module}': {error}", []
    elif isinstance(error, SyntaxError):
        kind, message = "Runtime.UserCodeSyntaxError", f"Syntax error in module '{module}': {error}"
        stack = [f'  File "/var/task/{module}.py" Line {error.lineno}\n    {error.text}']
    elif isinstance(error, AttributeError) and (error.obj, error.name) == (sys.modules.get(module), handler):
        kind, message, stack = "Runtime.HandlerNotFound", f"Handler '{handler}' missing on module '{module}'", []
    described = json.dumps({"errorMessage": message, "errorType": kind, "stackTrace": stack})
    return json.dumps({"status": "error", "error": described})


_NODE = r"""
function _describe(error, type) {
  const known = error instanceof Error;
  return {
    errorType: type || (known ? error.name : typeof error),
    errorMessage: known ? error.message : String(error),
    trace: known ? error.stack.split("\n") : [],
  };
}
function _describeInit(error) {
  if (error.code === "MODULE_NOT_FOUND" || error.code === "ERR_MODULE_NOT_FOUND")
    return { ..._describe(error, "Runtime.ImportModuleError"), errorMessage: `Error: ${error.message}` };
  return error instanceof SyntaxError ? _describe(error, "Runtime.UserCodeSyntaxError") : _describe(error);
}
function _answerFailure(error) {
  _realStdoutWrite(JSON.stringify({ status: "ok", failure: _describe(error) }) + "\n");
}
function _crash(failure) {
  _realStdoutWrite(JSON.stringify({ status: "error", failure }) + "\n", () => process.exit(129));
}
process.on("uncaughtException", (error) => _crash(_describe(error)));
process.on("unhandledRejection", (reason) => _crash(
  { ..._describe(reason, "Runtime.UnhandledPromiseRejection"), errorMessage: String(reason) }));

let handlerFn = null;
"""


PYTHON_ANSWER = """        _real_stdout.write(python_answer(handler_fn, event, context, code_dir) + "\\n")
"""
"""The line of the Python script that answers an invocation."""


def _patch_python(runtime: Any) -> None:
    script = "_PYTHON_WORKER_SCRIPT"
    sources = "\n".join(inspect.getsource(function) for function in (python_answer, python_init_failure))
    emulator.patch_text(runtime, script, "\ndef run():\n", f"\nfrom typing import Any\n\n{sources}\ndef run():\n")
    emulator.patch_text(
        runtime,
        script,
        """_real_stdout.write(json.dumps({"status": "error", "error": str(e)}) + "\\n")""",
        """_real_stdout.write(python_init_failure(e, module_name, handler_name) + "\\n")""",
    )
    emulator.patch_text(
        runtime,
        script,
        """        try:
            result = handler_fn(event, context)
            _real_stdout.write(json.dumps({"status": "ok", "result": result}) + "\\n")
        except Exception as e:
            _real_stdout.write(json.dumps({"status": "error", "error": str(e), "trace": traceback.format_exc()}) + "\\n")
""",  # noqa: E501 - the emulator's own line
        PYTHON_ANSWER,
    )


def _patch_node(runtime: Any) -> None:
    script = "_NODEJS_WORKER_SCRIPT"
    emulator.patch_text(runtime, script, "\nlet handlerFn = null;\n", _NODE)
    emulator.patch_text(
        runtime,
        script,
        """error: `Handler ${handlerName} is not a function in ${modPath}`""",
        """error: JSON.stringify({ errorType: "Runtime.HandlerNotFound", trace: [],
              errorMessage: `${modPath}.${handlerName} is undefined or not exported` })""",
    )
    emulator.patch_text(
        runtime,
        script,
        'status: "error", error: e.message\n',
        'status: "error", error: JSON.stringify(_describeInit(e))\n',
    )
    emulator.patch_text(
        runtime,
        script,
        r"""_realStdoutWrite(JSON.stringify({
            status: "error", error: String(err.message || err), trace: err.stack || ""
          }) + "\n");""",
        "_answerFailure(err);",
    )
    emulator.patch_text(
        runtime,
        script,
        r"""_realStdoutWrite(JSON.stringify({
        status: "error", error: e.message, trace: e.stack
      }) + "\n");""",
        "_answerFailure(e);",
    )


def _with_process(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Remember a worker's process: the emulator forgets it when it dies, and its exit status is wanted then."""

    def spawn(worker: Any) -> None:
        try:
            original(worker)
        finally:
            worker.process = worker._proc

    return spawn


def _with_failure(original: Callable[..., Answer]) -> Callable[..., Answer]:
    """Hand a failure on as JSON in the error text, the one member that the emulator passes through."""

    def invoke(worker: Any, event: Any, request_id: str, **options: Any) -> Answer:
        try:
            response = original(worker, event, request_id, **options)
        except RuntimeError as error:
            if str(error).startswith("Worker init failed: "):
                raise RuntimeError(str(error).removeprefix("Worker init failed: ")) from error
            if str(error).startswith("Worker process exited immediately"):
                raise RuntimeError(_exit_failure(worker, request_id)) from error
            raise
        if response.get("error") == "Worker process died":
            return response | {"error": _exit_failure(worker, request_id), "trace": ""}
        if failure := response.get("failure"):
            return response | {"status": "error", "error": json.dumps(failure), "trace": ""}
        return response

    return invoke


def _exit_failure(worker: Any, request_id: str) -> str:
    status = worker.process.wait()
    reason = "without providing a reason"
    if status:
        reason = f"with error: exit status {status}" if status > 0 else "with error: signal: killed"
    message = f"RequestId: {request_id} Error: Runtime exited {reason}"
    return json.dumps({"errorMessage": message, "errorType": "Runtime.ExitError"})


def _with_payload(original: Callable[..., Answer]) -> Callable[..., Answer]:
    """Make the failure the function's answer, and log it as the runtime does."""

    def execute(function: Answer, event: Any, request_id: str) -> Answer:
        answer = original(function, event, request_id)
        if not answer.get("error") or not answer["body"]["errorMessage"].startswith("{"):
            return answer
        failure = json.loads(answer["body"]["errorMessage"])
        line = f"[ERROR] {failure['errorType']}: {failure['errorMessage']}"
        if "trace" in failure:
            line = f"ERROR\tInvoke Error\t{json.dumps(failure)}"
        elif stack := failure.get("stackTrace"):
            line += "\nTraceback (most recent call last):\n" + "".join(stack)
        log = "\n".join(part for part in (answer.get("log"), line) if part)
        return answer | {"body": failure, "log": log}

    return execute


runtime = emulator.module("core.lambda_runtime")
_patch_python(runtime)
_patch_node(runtime)
emulator.patch(runtime.Worker, "_spawn", _with_process)
emulator.patch(runtime.Worker, "invoke", _with_failure)
emulator.patch(emulator.module("services.lambda_svc"), "_execute_function_warm", _with_payload)
