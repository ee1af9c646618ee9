"""AWS Glue: job runs that run their script, and partition filters of the Data Catalog."""

import local.aws.glue.jobs
import local.aws.glue.partitions  # noqa: F401 - both register their actions
