#!/usr/bin/env bash
# Root and two ordinary users on one mount with allow_other, as on every other filesystem; then a mount of an ordinary user.
# ON=DIRECTORY: try the suite itself on the filesystem there.
set -euo pipefail
. "$(dirname "$0")/../lib.sh"

need_packages acl attr fuse3 util-linux
need_testers
fuse_for_all
allow_other_for_all
make_place

a=${TESTERS[0]}
b=${TESTERS[1]}
denied='Permission denied'
not_permitted='Operation not permitted'

# inside COMMAND...: in the mount. A shell whose directory stayed there would keep it busy.
inside() {
  cd "$PLACE"
  "$@"
}

# mine USER MODE FILE: an empty file of the user, by the user
mine() { as "$1" touch "$3" && as "$1" chmod "$2" "$3"; }
owner() { expect "$1" stat -c '%U:%G %a' "$2"; }
write_to() { as "$1" sh -c 'echo more >>"$0"' "$2"; }

ownership() {
  mkdir -m 1777 shared
  (umask 022 && as "$a" touch shared/file && as "$a" mkdir shared/folder)
  owner "$a:$a 644" shared/file
  owner "$a:$a 755" shared/folder
  as "$a" ln -s file shared/link
  expect "$a:$a" stat -c %U:%G shared/link
  (umask 077 && as "$a" touch shared/private && as "$a" mkdir shared/hidden)
  owner "$a:$a 600" shared/private
  owner "$a:$a 700" shared/hidden
  (umask 000 && as "$a" touch shared/public && as "$a" mkdir shared/open)
  owner "$a:$a 666" shared/public
  owner "$a:$a 777" shared/open
  as "$a" mkfifo shared/pipe
  expect "$a fifo" stat -c '%U %F' shared/pipe
}

reading_and_writing() {
  as "$a" sh -c 'echo text >shared/file'
  expect text as "$b" cat shared/file
  refuses "$denied" write_to "$b" shared/file
  refuses "$denied" as "$b" truncate -s 0 shared/file
  refuses "$denied" as "$b" cat shared/private
  refuses "$denied" as "$b" ls shared/hidden
  refuses "$denied" as "$b" touch shared/hidden/new
  as "$a" touch shared/hidden/inside
  refuses "$denied" as "$b" stat shared/hidden/inside
  write_to "$b" shared/public
  # Search without reading: what is known by name is found.
  as "$a" chmod 711 shared/hidden
  as "$b" stat shared/hidden/inside >/dev/null
  refuses "$denied" as "$b" ls shared/hidden
  # Root reads all.
  cat shared/private shared/hidden/inside >/dev/null
}

changing_attributes() {
  refuses "$not_permitted" as "$b" chmod 777 shared/file
  refuses "$not_permitted" as "$a" chown "$b" shared/file
  refuses "$not_permitted" as "$a" chgrp root shared/file
  as "$a" chgrp "$TEAM" shared/file
  owner "$a:$TEAM 644" shared/file
  refuses "$denied" as "$b" touch shared/file
  refuses "$not_permitted" as "$b" touch -d 2001-01-01 shared/public
  as "$b" touch shared/public
  refuses "$not_permitted" as "$b" touch -d 2001-01-01 shared/folder
  as "$a" touch -d '2001-02-03 04:05:06.123456789 UTC' shared/file
  expect 981173106.123456789 date -r shared/file +%s.%N
  chown "$b:$b" shared/public
  owner "$b:$b 666" shared/public
}

supplementary_groups() {
  touch shared/for-team
  chown root:"$TEAM" shared/for-team
  chmod 640 shared/for-team
  as "$a" cat shared/for-team
  refuses "$denied" write_to "$a" shared/for-team
  chmod 660 shared/for-team
  write_to "$b" shared/for-team
  refuses "$denied" as nobody cat shared/for-team
}

sticky_directories() {
  as "$a" touch shared/sticky
  refuses "$not_permitted" as "$b" rm -f shared/sticky
  refuses "$not_permitted" as "$b" mv shared/sticky shared/stolen
  as "$b" touch shared/other
  refuses "$not_permitted" as "$b" mv -f shared/other shared/sticky
  as "$a" rm shared/sticky
  rm shared/other
  # Without the bit, who may write to the directory may remove.
  mkdir -m 777 loose
  mine "$a" 600 loose/file
  as "$b" rm -f loose/file
}

setgid_directories() {
  mkdir team
  chown root:"$TEAM" team
  chmod 2775 team
  (umask 002 && as "$a" touch team/file && as "$a" mkdir team/sub && as "$a" mkfifo team/pipe && as "$a" ln -s x team/link)
  owner "$a:$TEAM 664" team/file
  owner "$a:$TEAM 2775" team/sub
  expect "$TEAM" stat -c %G team/pipe
  expect "$TEAM" stat -c %G team/link
  write_to "$b" team/file
  (umask 002 && as "$b" touch team/sub/file)
  owner "$b:$TEAM 664" team/sub/file
}

privilege_bits() {
  mine "$a" 666 shared/privileged
  as "$a" chmod 6777 shared/privileged
  owner "$a:$a 6777" shared/privileged
  write_to "$b" shared/privileged
  owner "$a:$a 777" shared/privileged
  as "$a" chmod 6777 shared/privileged
  as "$b" truncate -s 1 shared/privileged
  owner "$a:$a 777" shared/privileged
  as "$a" chmod 6777 shared/privileged
  as "$b" dd if=/dev/null of=shared/privileged status=none
  owner "$a:$a 777" shared/privileged
  as "$a" chmod 6777 shared/privileged
  chown "$b" shared/privileged
  owner "$b:$a 777" shared/privileged
  # A group that its owner is not in.
  chown "$a:root" shared/privileged
  as "$a" chmod 2755 shared/privileged
  owner "$a:root 755" shared/privileged
}

programs() {
  cp "$(command -v id)" shared/program
  chmod 700 shared/program
  refuses "$denied" as "$a" shared/program
  chmod 755 shared/program
  expect "$(id -u "$a")" as "$a" shared/program -u
  chmod 4755 shared/program
  expect 0 as "$a" shared/program -u
  write_to root shared/program
  chmod 755 shared/program
  refuses "$not_permitted" as "$a" mknod shared/device c 1 3
  mknod -m 666 shared/null c 1 3
  as "$b" sh -c 'echo gone >shared/null'
  expect '' cat shared/null
}

access_lists() {
  mine "$a" 600 shared/listed
  refuses "$denied" as "$b" cat shared/listed
  as "$a" setfacl -m "u:$b:r" shared/listed
  as "$b" cat shared/listed
  refuses "$denied" write_to "$b" shared/listed
  refuses "$not_permitted" as "$b" setfacl -m "u:$b:rw" shared/listed
  # The group bits are the mask.
  owner "$a:$a 640" shared/listed
  as "$a" chmod 600 shared/listed
  refuses "$denied" as "$b" cat shared/listed
  as "$a" chmod 640 shared/listed
  as "$b" cat shared/listed
  as "$a" setfacl -b shared/listed
  refuses "$denied" as "$b" cat shared/listed
  owner "$a:$a 600" shared/listed
}

default_access_lists() {
  as "$a" mkdir shared/defaults
  as "$a" setfacl -d -m "u:$b:rwx,g::r-x,o::---" shared/defaults
  # The umask does not count where a default ACL does.
  (umask 077 && as "$a" touch shared/defaults/file && as "$a" mkdir shared/defaults/sub)
  owner "$a:$a 660" shared/defaults/file
  owner "$a:$a 770" shared/defaults/sub
  write_to "$b" shared/defaults/file
  as "$b" touch shared/defaults/sub/file
  refuses "$denied" as nobody cat shared/defaults/file
  getfacl -pc shared/defaults/file | grep -qx "user:$b:rwx[[:space:]]*#effective:rw-"
  getfacl -pc shared/defaults/sub | grep -qx "default:user:$b:rwx"
}

attributes() {
  as "$a" setfattr -n user.note -v mine shared/file
  expect mine as "$b" getfattr --only-values -n user.note shared/file
  refuses "$denied" as "$b" setfattr -n user.note -v yours shared/file
  refuses "$not_permitted" as "$a" setfattr -n trusted.note -v x shared/file
  setfattr -n trusted.note -v x shared/file
  expect x getfattr --only-values -n trusted.note shared/file
  refuses 'No such attribute' as "$a" getfattr -n trusted.note shared/file
}

everything() { find . -mindepth 1 -printf '%P %y %m %U:%G %s %T@ %l\n' | sort; getfacl -Rnp . | grep -v '^# file: \.$'; }

# --- a mount of an ordinary user, through fusermount3 ---

as_user() { as "$a" env HOME="$home" SERO="$home/sero" PATH="$PATH" "$@"; }
user_mount() { # OPTION...
  as_user timeout 60 "$home/sero" mount "$home/vault" "$home/open" "$@" --password-file "$home/passphrase"
}
user_seal() { as_user timeout 60 "$home/sero" seal "$home/open"; }

ordinary_user() {
  cp "$SERO" "$home/sero"
  printf '%s\n' "$PASSPHRASE" >"$home/passphrase"
  chmod 600 "$home/passphrase"
  chown "$a:$a" "$home" "$home/passphrase"
  as_user mkdir "$home/open"
  as_user "$home/sero" create "$home/vault" "${FAST_KDF[@]}" --password-file "$home/passphrase"
  user_mount
  as_user sh -c 'echo text >"$HOME/open/file"'
  # Nobody else comes in, root included.
  refuses "$denied" as "$b" ls "$home/open"
  refuses "$denied" ls "$home/open"
  user_seal
  user_mount -o allow_other
  # A new vault is its owner's alone.
  refuses "$denied" as "$b" ls "$home/open"
  as_user chmod 755 "$home/open"
  expect text as "$b" cat "$home/open/file"
  refuses "$denied" write_to "$b" "$home/open/file"
  user_seal
  as_user test ! -e "$home/open/file"
}

check "ownership and umask" inside ownership
check "reading and writing" inside reading_and_writing
check "mode, owner, group and times" inside changing_attributes
check "supplementary groups" inside supplementary_groups
check "sticky directories" inside sticky_directories
check "setgid directories" inside setgid_directories
check "set-user-id and set-group-id bits" inside privilege_bits
check "programs and devices" inside programs
check "access lists" inside access_lists
check "default access lists" inside default_access_lists
check "extended attributes" inside attributes
check "all of it is remembered when sealed" same_when_reopened inside everything
if [[ -n $VAULT ]]; then
  check "sealed" seal_place
  home=$SCRATCH/home
  mkdir "$home"
  check "a mount of an ordinary user" ordinary_user
fi
finish permissions
