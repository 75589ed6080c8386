"""Penstock in AWS Lambda."""

from penstock import import_at_once

import_at_once("penstock.wiring")  # else garbage collection takes a third of a cold start
import_at_once("penstock.sqs.queue")
