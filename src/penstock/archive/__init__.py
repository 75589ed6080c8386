"""The packed archive: files are staged on the spool's file system, then packed into segments."""
