#!/usr/bin/env bash
# Real crashes: the daemon killed at random moments, and the power cut on ext4 and xfs (atomic copies of a disk image that lies on
# an xfs with reflinks), each under a mixed load, and what is left held against what was acknowledged.
# LONG=1: 200 of each instead of a few. SEED=NUMBER repeats a run.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages python3 util-linux e2fsprogs xfsprogs
need_sero
make_scratch

rounds=5
cuts=4
if [[ -n ${LONG:-} ]]; then
  rounds=200
  cuts=200
fi
here=$(dirname "$0")
seed=${SEED:-$RANDOM}

mkdir "$SCRATCH/kill" "$SCRATCH/cut"
truncate -s 12G "$SCRATCH/reflinks"
mkfs.xfs -q -m reflink=1 "$SCRATCH/reflinks"
mount -o loop "$SCRATCH/reflinks" "$SCRATCH/cut"

check "killed $rounds times" python3 "$here/kill.py" "$SERO" "$SCRATCH/kill" "$rounds" "$seed"
check "power cut $cuts times on ext4" python3 "$here/powercut.py" "$SERO" "$SCRATCH/cut" ext4 "$cuts" "$seed"
check "power cut $cuts times on xfs" python3 "$here/powercut.py" "$SERO" "$SCRATCH/cut" xfs "$cuts" "$seed"
finish crash
