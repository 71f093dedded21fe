#!/usr/bin/env bash
# From a fresh clone to a mounted vault: installs what is missing, builds, creates, mounts, says how to seal.
# Usage: scripts/demo.sh [DIRECTORY]      (default: ~/sero-demo; the vault is DIRECTORY/vault)
# With a terminal it asks for a passphrase; without one it makes one up and keeps it in DIRECTORY/passphrase.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

place=${1:-$HOME/sero-demo}
vault=$place/vault
mountpoint=$place/open

need_packages build-essential pkg-config fuse3
need_cargo
say "building sero (some minutes the first time)"
(cd "$PROJECT" && cargo build --release --bin sero)
sero=$BUILD/release/sero

mkdir -p "$place"
secret=()
if [[ ! -t 0 ]]; then
  secret=(--password-file "$place/passphrase")
  [[ -e $place/passphrase ]] || (umask 077 && head -c 24 /dev/urandom | base64 >"$place/passphrase")
  say "no terminal to ask on: the passphrase is in $place/passphrase"
fi
if [[ ! -e $vault/sero.json ]]; then
  say "creating the vault $vault"
  "$sero" create "$vault" "${secret[@]}"
fi
if ! mountpoint -q "$mountpoint"; then
  mkdir -p "$mountpoint"
  say "mounting it on $mountpoint"
  "$sero" mount "$vault" "$mountpoint" "${secret[@]}"
fi

cat <<END

The vault is open. Work in it as in every directory:

  echo 'nobody else reads this' > $mountpoint/note.txt
  ls -lR $vault/tree                      # what the disk sees

When you are done, seal it; then $vault can be copied, and is noise to everybody else:

  $sero seal $mountpoint

And later again:

  $sero mount $vault $mountpoint${secret[*]:+ ${secret[*]}}
END
