#!/usr/bin/env bash
# Run a command where nothing but Python, make and what Debian calls essential can be found.
#
#     scripts/bare.sh make test
#
# In a mount namespace of its own, programs that tests can do without have an empty file over them.
set -euo pipefail

hidden="redis-* valkey-* nginx chromium* google-chrome* promtool prometheus zstd openssl curl wget \
file git systemd-analyze versitygw docker debootstrap"

if [ -z "${PENSTOCK_BARE-}" ]; then
  if [ "$(id -u)" = 0 ]; then own=""; else own="--user --map-current-user --keep-caps"; fi
  # shellcheck disable=SC2086  several words, or none
  PENSTOCK_BARE=1 exec unshare $own --mount "$BASH" "$0" "$@"
fi
unset PENSTOCK_BARE
IFS=: read -ra directories <<<"$PATH:/usr/sbin:/sbin"
for directory in "${directories[@]}"; do
  for pattern in $hidden; do
    for program in "$directory"/$pattern; do
      if [ -x "$program" ] && [ -f "$program" ]; then mount --bind /dev/null "$program"; fi
    done
  done
done
for directory in "${directories[@]}"; do
  for program in redis-server nginx chromium; do
    if [ -x "$directory/$program" ]; then echo "$directory/$program is still found" >&2; exit 1; fi
  done
done
exec "$@"
