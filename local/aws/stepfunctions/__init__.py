"""Step Functions: tasks act with the state machine's role, callbacks end in time, executions are named once.

The emulator evaluates JSONPath, JSONata, choices and waits; walking the states, what a Task or a Distributed Map does,
how an execution starts, ends and is redriven, and what a state machine must be is done here.
"""

from local.aws.stepfunctions import calls, executions, logs, machines, maps, redrive, tasks

__all__ = ["calls", "executions", "logs", "machines", "maps", "redrive", "tasks"]
