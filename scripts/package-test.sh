#!/usr/bin/env bash
# The Debian package: built, installed into a root made for it with nothing but the base system, and used there.
# LONG=1 also builds it a second time, from a copy of the sources in another place: the bytes have to be the same.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_packages mmdebstrap dpkg-dev binutils
make_scratch

package=
builds() { scripts/package.sh "$SCRATCH/built" >"$SCRATCH/path"; }

base_system() {
  # The release that this machine runs, from where it has its packages.
  local VERSION_CODENAME
  . /etc/os-release
  mmdebstrap --quiet --variant=minbase --include=fuse3,bash-completion "$VERSION_CODENAME" "$root"
}

inside() { # SCRIPT
  timeout 120 chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root bash -euc "$1"
}

installs() {
  cp "$package" "$root/sero.deb"
  inside 'dpkg -i /sero.deb && sero --version'
  mount -t proc proc "$root/proc"
  [[ -e $root/dev/fuse ]] || mknod -m 666 "$root/dev/fuse" c 10 229
}

mounts_there() {
  inside '
    cd /root && mkdir open && umask 077 && echo "correct horse battery staple" >secret
    sero create --kdf-memory 8 --kdf-passes 1 --kdf-lanes 1 --password-file secret vault
    sero mount --password-file secret vault open
    echo "from the package" >open/file
    sero seal open
    mount -t sero -o passfile=/root/secret /root/vault /root/open
    [[ $(cat open/file) == "from the package" ]]
    umount open
    until sero info --json vault | grep -q "\"sealed\": true"; do sleep 0.1; done'
}

has_its_papers() {
  inside '
    for page in sero sero-mount sero-seal; do test -s /usr/share/man/man1/$page.1.gz; done
    source /usr/share/bash-completion/bash_completion; source /usr/share/bash-completion/completions/sero
    COMP_WORDS=(sero inf); COMP_CWORD=1; _sero sero inf sero; [[ ${COMPREPLY[*]} == info ]]
    dpkg --verify sero'
}

is_small_and_stripped() {
  local program=$root/usr/bin/sero
  [[ $(stat -c %s "$package") -lt $((4 << 20)) ]]
  ! readelf --sections "$program" | grep -qE '\.symtab|\.debug_'
  # No path of the machine that built it.
  ! strings -a "$program" | grep -qF -e "$PROJECT" -e "$HOME/"
}

goes_away() {
  inside 'dpkg -r sero && ! command -v sero && [[ ! -e /usr/sbin/mount.sero ]]'
}

same_bytes_twice() {
  git clone --quiet "$PROJECT" "$SCRATCH/elsewhere"
  (cd "$SCRATCH/elsewhere" && env -u CARGO_TARGET_DIR SOURCE_DATE_EPOCH=1700000000 scripts/package.sh "$SCRATCH/second")
  SOURCE_DATE_EPOCH=1700000000 scripts/package.sh "$SCRATCH/first"
  cmp "$SCRATCH"/first/*.deb "$SCRATCH"/second/*.deb
}

root=$SCRATCH/base
cd "$PROJECT"
check "built" builds
package=$(cat "$SCRATCH/path")
check "a base system to install it into" base_system
chmod 755 "$SCRATCH"
check "installed" installs
check "creates, mounts and seals there, by sero and by mount(8)" mounts_there
check "manual pages, completions, and every file as it was packed" has_its_papers
check "small, stripped, and names no path" is_small_and_stripped
check "removed" goes_away
if [[ -n ${LONG:-} ]]; then
  check "the same bytes from another place" same_bytes_twice
fi
finish package
