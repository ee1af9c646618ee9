"""Amazon Data Firehose to S3: buffers, Lambda transformation, error and backup objects, Kinesis streams as source.

``api`` answers requests and CloudFormation; a ``stream`` owns the records of one Firehose stream and moves them through
``stages``. All work is done with the sessions of the configured roles, on the public APIs of S3, Lambda and Kinesis.

Not here, and refused by name: other destinations than S3, dynamic partitioning, record format conversion and Snappy.
Records that the Kinesis Producer Library aggregated are delivered as they are.
"""

import local.aws.firehose.api  # noqa: F401 - registers the actions
