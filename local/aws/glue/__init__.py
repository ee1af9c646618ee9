"""AWS Glue: job runs that run their script, triggers and workflows, and partition filters of the Data Catalog."""

import local.aws.glue.jobs
import local.aws.glue.partitions
import local.aws.glue.triggers
import local.aws.glue.workflows  # noqa: F401 - all register their actions
