#!/usr/bin/env bash
# What the daemon takes of memory for the inodes that the kernel knows, against the goal of 64 MiB and 300 bytes an inode.
# Usage: scripts/bench/inodes.sh [DIRECTORIES]     (default: 1000, of a thousand files each; fails if the goal is missed)
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

directories=${1:-1000}
need_packages fuse3 python3
need_sero
make_scratch /dev/shm
sero_create "$SCRATCH/vault"

sero_mount "$SCRATCH/vault" "$SCRATCH/open"
say "making $directories directories of a thousand files"
python3 - "$SCRATCH/open" "$directories" <<'END'
import os, sys
top, directories = sys.argv[1], int(sys.argv[2])
for directory in range(directories):
    path = f"{top}/dir{directory:04}"
    os.mkdir(path)
    for file in range(1000):
        os.close(os.open(f"{path}/document{file:05}.txt", os.O_CREAT | os.O_WRONLY))
END
sero_seal "$SCRATCH/open"

sero_mount "$SCRATCH/vault" "$SCRATCH/open"
taken() {
  "$SERO" status --json "$SCRATCH/open" |
    python3 -c 'import json, sys; memory = json.load(sys.stdin)[0]["memory"]; print(memory["inodes"], memory["resident_bytes"])'
}
before=$(taken)
find "$SCRATCH/open" -printf '%s\n' >"$SCRATCH/sizes"
python3 - $before $(taken) <<'END'
import sys
inodes_before, before, inodes, after = map(int, sys.argv[1:])
goal = (64 << 20) + 300 * inodes
print(f"inodes known: {inodes_before:,}, then {inodes:,}")
print(f"resident bytes: {before:,}, then {after:,} ({(after - before) / (inodes - inodes_before):.0f} for each inode more); the goal is {goal:,}")
sys.exit(after > goal)
END
sero_seal "$SCRATCH/open"
