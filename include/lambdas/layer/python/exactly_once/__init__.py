"""Effects exactly once, for sources that deliver at least once.

`fold` for Kinesis, `inbox` for queues and topics, `outbox` for what an effect has to tell, `contracts` and `quarantine`
for records that are not what they should be. Import from the modules: a function loads no more than it uses.
"""
