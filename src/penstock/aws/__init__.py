"""Penstock in AWS Lambda."""

from penstock import import_at_once

import_at_once("penstock.wiring")  # a third of what a cold start pays would go into garbage
import_at_once("penstock.sqs.queue")
