#!/usr/bin/env bash
# Builds a Debian package: the program, stripped, its manual pages, completions, systemd units, and the mount helper.
# Usage: scripts/package.sh [DIRECTORY]      (default: target/package; prints the path of the package)
# The same sources and the same compiler give the same bytes: SOURCE_DATE_EPOCH is that of the last commit unless it is set.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_packages build-essential pkg-config dpkg-dev git
need_cargo
output=${1:-$BUILD/package}
mkdir -p "$output"
output=$(cd "$output" && pwd)
cd "$PROJECT"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
architecture=$(dpkg --print-architecture)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

# --- the program: no path of the machine that builds it ---

place=$BUILD/packaging
rust_flags= c_flags=
remap=("$PROJECT=." "$place=target" "${CARGO_HOME:-$HOME/.cargo}=cargo")
for pair in "${remap[@]}"; do
  rust_flags+="--remap-path-prefix=$pair "
  c_flags+="-ffile-prefix-map=$pair "
done
say "building sero $version" >&2
RUSTFLAGS=${rust_flags% } CFLAGS=${c_flags% } CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=symbols \
  cargo build --quiet --release --locked --features logind --bin sero --target-dir "$place" >&2
program=$place/release/sero

# --- what is where ---

make_scratch
root=$SCRATCH/root
share=$root/usr/share
install -D -m 755 "$program" "$root/usr/bin/sero"
# mount(8) and fstab: `mount -t sero`, and `mount -t fuse.sero`, as mountinfo calls it.
mkdir -p "$root/usr/sbin"
ln -s ../bin/sero "$root/usr/sbin/mount.sero"
ln -s ../bin/sero "$root/usr/sbin/mount.fuse.sero"
# For lines with `uhelper=sero`: umount(8) waits until the vault is sealed.
ln -s ../bin/sero "$root/usr/sbin/umount.sero"

mkdir -p "$share/man/man1"
"$program" --quiet man "$share/man/man1"
gzip -9n "$share/man/man1"/*

complete() { # SHELL PATH
  mkdir -p "$(dirname "$share/$2")"
  "$program" completions "$1" >"$share/$2"
}
complete bash bash-completion/completions/sero
complete zsh zsh/vendor-completions/_sero
complete fish fish/vendor_completions.d/sero.fish

for kind in user system; do
  for unit in scripts/systemd/"$kind"/*; do
    [[ -e $unit ]] || continue
    install -D -m 644 "$unit" "$root/usr/lib/systemd/$kind/$(basename "$unit")"
  done
done

documents=$share/doc/sero
install -D -m 644 README.md "$documents/README.md"
install -D -m 644 -t "$documents/docs" docs/*
gzip -9nc CHANGELOG.md >"$documents/changelog.gz"
cat >"$documents/copyright" <<END
sero is licensed under MIT or Apache-2.0, as you like.

$(cat LICENSE-MIT)

On Debian systems, the Apache License 2.0 is in /usr/share/common-licenses/Apache-2.0.
END
find "$root" -type d -exec chmod 755 {} +
find "$root" -type f ! -path "$root/usr/bin/*" -exec chmod 644 {} +

# --- what dpkg wants to know ---

mkdir "$root/DEBIAN"
# The oldest C library that has every symbol it uses.
libc=$(objdump -T "$root/usr/bin/sero" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -V | tail -1)
cat >"$root/DEBIAN/control" <<END
Package: sero
Version: $version
Architecture: $architecture
Maintainer: the sero authors <sero@localhost>
Installed-Size: $(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1
Recommends: fuse3
Section: utils
Priority: optional
Description: encrypted, crash-proof, tamper-evident filesystem
 sero keeps a directory encrypted. A vault is mounted as a normal directory;
 the disk underneath holds only ciphertext, and sealing the vault takes the
 directory away until somebody mounts it again with the passphrase.
END
(cd "$root" && find . -path ./DEBIAN -prune -o -type f -print | sort | sed 's|^\./||' | xargs -d '\n' md5sum) >"$SCRATCH/md5sums"
install -m 644 "$SCRATCH/md5sums" "$root/DEBIAN/md5sums"

# --- one file, the same for everybody ---

find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
package=$output/sero_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >&2
printf '%s\n' "$package"
