#!/usr/bin/env bash
# Real crashes: the daemon killed at random moments, and the power cut on ext4 and xfs (atomic copies of a disk image that lies on
# an xfs with reflinks), each under a mixed load, and what is left held against what was acknowledged.
#
# LONG=1: 200 of each instead of a few; ROUNDS=NUMBER: so many. SEED=NUMBER repeats a run. DISKS="ext4 xfs": on which
# filesystems. PEER=gocryptfs: power cuts of that instead, which is expected to fail (or PEER=none, of the filesystem by itself,
# which is not): to see that the checks find what they should.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages python3 git util-linux e2fsprogs xfsprogs
make_scratch

rounds=5
cuts=4
if [[ -n ${LONG:-} ]]; then
  rounds=200
  cuts=200
fi
rounds=${ROUNDS:-$rounds}
cuts=${ROUNDS:-$cuts}
here=$(dirname "$0")
seed=${SEED:-$RANDOM}

mkdir "$SCRATCH/kill" "$SCRATCH/cut"
truncate -s 12G "$SCRATCH/reflinks"
mkfs.xfs -q -m reflink=1 "$SCRATCH/reflinks"
mount -o loop "$SCRATCH/reflinks" "$SCRATCH/cut"

case ${PEER:-} in
  '')
    need_sero
    subject=$SERO
    check "killed $rounds times" python3 "$here/kill.py" "$SERO" "$SCRATCH/kill" "$rounds" "$seed"
    ;;
  none) subject=none ;;
  gocryptfs)
    need_packages gocryptfs
    subject=gocryptfs
    ;;
  *) die "PEER is gocryptfs or none" ;;
esac
for filesystem in ${DISKS:-ext4 xfs}; do
  check "power cut $cuts times on $filesystem" python3 "$here/powercut.py" "$subject" "$SCRATCH/cut" "$filesystem" "$cuts" "$seed"
done
finish crash
