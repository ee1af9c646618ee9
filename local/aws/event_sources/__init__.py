"""Event source mappings of AWS Lambda: streams and queues that invoke functions.

The emulator has one thread for all of them, which reads the sources' records directly and ignores most settings. Here
every shard and every queue is read through the public API with the function's execution role, and a batch goes
through AWS's steps in AWS's order: filter, batch, invoke, partial failure, bisect, retries, age, destination
(https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventsourcemapping.html).

``mappings`` creates, changes and ends them; ``shards`` reads a stream and ``queues`` a queue; ``delivery`` takes one
batch of a stream through the steps.
"""

import local.aws.event_sources.mappings  # noqa: F401 - it registers itself
