#!/usr/bin/env bash
# The tour of the README, run as it stands there, in a terminal, by a user without rights of their own.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages python3 fuse3
need_sero
need_testers
fuse_for_all
make_scratch

tour=$SCRATCH/tour
# The block behind the mark, without its fences.
awk '/^<!-- tour -->$/ { marked = 1; next } marked && /^```/ { if (inside) exit; inside = 1; next } inside' "$PROJECT/README.md" >"$tour"

has_commands() { [[ $(grep -c '^sero ' "$tour") -ge 5 ]]; }

is_run() {
  local home=$SCRATCH/home user=${TESTERS[0]}
  install -d -o "$user" "$home" "$home/bin"
  install -m 755 "$SERO" "$home/bin/sero"
  install -m 644 "$(dirname "$0")/tour.py" "$tour" "$home"
  (cd "$home" && as "$user" -i HOME="$home" PATH="$home/bin:/usr/bin:/bin:/usr/sbin:/sbin" TERM=xterm \
    timeout 300 python3 "$home/tour.py" "$home/tour" "$PASSPHRASE")
  # Sealed at its end, and nothing of it mounted.
  [[ -z $(mounts_below "$home") ]]
  "$SERO" info --json "$home/papers.sero" | grep -q '"sealed": true'
}

check "the README has a tour" has_commands
check "the tour runs, and leaves a sealed vault" is_run
finish tour
