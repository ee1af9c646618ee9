"""Amazon EventBridge Pipes: from a queue or a stream through filter and enrichment to a target.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes.html

A pipe reads its source with the readers of event source mappings, which filter, batch, retry, bisect and discard;
``pipe`` is what stands in the function's place. ``enrichment`` and ``target`` are its two stages, ``payload`` fills in
input templates, and ``api`` answers requests and CloudFormation.
"""

import local.aws.pipes.api  # noqa: F401 - it registers itself
