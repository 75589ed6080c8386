"""The settings: schema (what there is), reading (where it comes from), secrets, spool_place."""
