"""Amazon EventBridge rules and EventBridge Scheduler: what happens between a match, or a due time, and the target.

The emulator keeps buses, rules, archives and schedules and matches patterns. Here the targets are called with a role's
permissions or by their own policy, are tried again, and what cannot be delivered goes to a dead-letter queue.

``publishing`` takes events; ``rules`` and ``schedules`` decide when what goes to which target, ``delivery`` brings it
there. ``paths`` reads JSON paths and fills in input templates, also for pipes.
"""

import local.aws.events.archives
import local.aws.events.publishing
import local.aws.events.rules
import local.aws.events.schedules  # noqa: F401 - they register themselves
