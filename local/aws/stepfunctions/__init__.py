"""Step Functions: tasks act with the state machine's role, callbacks end in time, executions are named once.

The emulator walks the states and evaluates JSONPath and JSONata; what a Task state does, how an execution starts and
ends, and what a state machine must be is done here.
"""

from local.aws.stepfunctions import calls, executions, machines, tasks

__all__ = ["calls", "executions", "machines", "tasks"]
