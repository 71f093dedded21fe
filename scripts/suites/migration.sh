#!/usr/bin/env bash
# The commands of docs/migrating.md: a tree in gocryptfs, CryFS and EncFS is opened read-only and imported into a vault, and is
# the same there.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages gocryptfs cryfs encfs fuse3
need_sero
make_scratch

secret=$SCRATCH/secret
printf '%s\n' "$PASSPHRASE" >"$secret"
chmod 600 "$secret"
plain=$SCRATCH/plain
mkdir "$plain"

make_tree() { # DIRECTORY
  mkdir -p "$1/a/b"
  printf 'some text\n' >"$1/a/text"
  head -c 3000001 /dev/urandom >"$1/a/b/large"
  ln -s ../a/text "$1/a/link"
  : >"$1/empty"
  touch -d '2001-02-03 04:05:06' "$1/a/text"
}

# The peer's mount, as its users call it: read-write, or read-only with `ro`.
open_gocryptfs() {
  [[ -e $old/gocryptfs.conf ]] || gocryptfs -quiet -init -scryptn 10 -passfile "$secret" "$old"
  gocryptfs -quiet ${1:+-ro} -passfile "$secret" "$old" "$plain"
}
open_cryfs() {
  CRYFS_FRONTEND=noninteractive CRYFS_NO_UPDATE_CHECK=true CRYFS_LOCAL_STATE_DIR=$SCRATCH/cryfs \
    cryfs "$old" "$plain" ${1:+-o ro} <"$secret" >/dev/null
}
open_encfs() { encfs --standard --stdinpass "$old" "$plain" ${1:+-- -o ro} <"$secret" >/dev/null; }

close_old() {
  local try
  for try in 1 2 3 4 5; do
    fusermount3 -u "$plain" && return 0
    sleep "$try"
  done
  return 1
}

migrates() { # PEER
  local old=$SCRATCH/$1 vault=$SCRATCH/$1.sero
  mkdir "$old"
  "open_$1"
  make_tree "$plain"
  close_old
  sero_create "$vault"
  "open_$1" ro
  "$SERO" --quiet import --password-file "$secret" "$plain" "$vault"
  sero_mount "$vault" "$SCRATCH/open"
  # Times to the second: not every one of them keeps more.
  diff <(tree_of "$plain") <(tree_of "$SCRATCH/open")
  sero_seal "$SCRATCH/open"
  close_old
}

tree_of() {
  (cd "$1" && find . -mindepth 1 -type f -printf '%p %m %s %TY%Tm%Td%TH%TM%.2TS\n' -o -mindepth 1 -printf '%p %y %l\n' | sort &&
    find . -type f -exec md5sum {} + | sort)
}

for peer in gocryptfs cryfs encfs; do
  check "from $peer" migrates "$peer"
done
finish migration
