"""From selected records to SQS's receipts."""
