"""What `--help` and docs/commands.md show of each command: two ways to call it."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, str]] = {
    "run": ("", "--config /etc/penstock.toml --verbose"),
    "load": ("", "--every 0.25"),
    "archive": ("", "--every 5 --json"),
    "check": ("", "--every 15"),
    "demo": ("", "--rate 200 --records-per-file 100 --queue fifo"),
    "status": ("", "--watch --every 5"),
    "explain": ("2026-11-23T06-15-00.123456.json", "--json spool/2026-11-23T06-15-00.123456.json"),
    "verify": ("", "--archive --json"),
    "archived list": ("--since '1h ago'", "--names --since 2026-11-23T06:15"),
    "archived get": ("2026-11-23T06-15-00.123456.json", "--all 2026-11-23T06-15-00.123456.json"),
    "archived extract": ("copies --since '1h ago'", "copies --since 2026-11-23 --until 2026-11-24"),
    "console": ("", "--listen 127.0.0.1:9000"),
    "rejected list": ("", "--reason 'not JSON' --since '2h ago'"),
    "rejected show": ("2026-11-23T06-15-00.123456.json", "--json 2026-11-23T06-15-00.123456.json"),
    "rejected retry": ("--all --dry-run", "'2026-11-23T06*' --yes"),
    "rejected discard": ("--reason 'empty file'", "'2026-11-23T06*' --no-copy"),
    "replay": ("'2026-11-23T06*' --dry-run", "--since '2h ago' --until '1h ago'"),
    "spool accept": ("", "--yes"),
    "init": ("/var/spool/tweets", "--yes --config /etc/penstock.toml /var/spool/tweets"),
    "preview": ("spool", "spool --select '{id: id, author: user.name}' --where \"lang == 'en'\""),
    "config show": ("", "--json"),
    "config check": ("", "--config /etc/penstock.toml"),
    "serve": ("", "/var/spool/tweets --listen 127.0.0.1:9000"),
    "plan": (
        "--files-per-second 6000 --records-per-file 1 --record-bytes 2400 --selected-bytes 300",
        "--files-per-second 60 --records-per-file 99 --record-bytes 2400 --selected-bytes 300",
    ),
}
