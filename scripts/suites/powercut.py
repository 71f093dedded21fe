"""Cuts the power under a mixed load: the backing lies in a filesystem image, and a cut is an atomic copy of that image, by
reflink, while everything goes on. Each copy is mounted afresh and held against what had been acknowledged.
Usage: powercut.py SERO DIRECTORY FILESYSTEM CUTS [SEED]      (DIRECTORY on an xfs with reflinks; ext4 or xfs)"""

import os
import random
import subprocess
import sys
import time

from crashload import Load

CHEAP = ["--kdf-memory", "8", "--kdf-passes", "1", "--kdf-lanes", "1"]


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def quietly(*command):
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    sero, place, filesystem, cuts = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    seed = int(sys.argv[5]) if len(sys.argv) > 5 else random.randrange(1 << 30)
    print(f"power cuts on {filesystem}: {cuts}, seed {seed}")
    dice = random.Random(seed)
    image, disk, mount = f"{place}/image", f"{place}/disk", f"{place}/open"
    copy, disk_after, mount_after = f"{place}/image.cut", f"{place}/disk.cut", f"{place}/open.cut"
    for folder in (disk, mount, disk_after, mount_after):
        os.makedirs(folder, exist_ok=True)
    with open(os.open(f"{place}/secret", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write("only for this test\n")
    secret = ["--password-file", f"{place}/secret"]
    violations = 0
    try:
        for number in range(cuts):
            # A new disk now and then: full ones and long lists only make it slow.
            if number % 10 == 0:
                if number:
                    run(sero, "seal", mount)
                    run("umount", disk)
                with open(image, "wb") as file:
                    file.truncate(3 << 30)
                run(f"mkfs.{filesystem}", *(["-q", "-F"] if filesystem == "ext4" else ["-q", "-f"]), image)
                run("mount", "-t", filesystem, "-o", "loop", image, disk)
                run(sero, "create", f"{disk}/vault", *CHEAP, *secret)
                run(sero, "mount", f"{disk}/vault", mount, *secret)
                load = Load(mount)
            load.stop.clear()
            threads = load.run(seed + number)
            time.sleep(dice.uniform(0.2, 7.0))
            left = load.acknowledged()
            run("cp", "--reflink=always", image, copy)
            left.written_pages, left.log_written, left.replacing = dict(load.written_pages), load.log_written, load.replacing
            load.stop.set()
            for thread in threads:
                thread.join(60)
            # The copy has the identity of the disk that is still mounted.
            run("mount", "-t", filesystem, "-o", "loop,nouuid" if filesystem == "xfs" else "loop", copy, disk_after)
            mounted = subprocess.run([sero, "mount", f"{disk_after}/vault", mount_after, *secret], capture_output=True, text=True)
            if mounted.returncode:
                wrong = [f"does not mount: {mounted.stderr.strip()}"]
            else:
                left.mount = mount_after
                wrong = left.check()
                run(sero, "seal", mount_after)
            violations += bool(wrong)
            for line in wrong[:8]:
                print(f"cut {number}: {line}")
            quietly("umount", disk_after)
    finally:
        # Sealed, not only detached: the daemon holds its disk until it is done.
        for folder in (mount_after, mount):
            quietly("timeout", "60", sero, "seal", folder)
            quietly("umount", "-l", folder)
        for folder in (disk_after, disk):
            for _ in range(300):
                if not os.path.ismount(folder) or subprocess.run(["umount", folder], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                quietly("umount", "-l", folder)
    print(f"power cuts on {filesystem}: {cuts}, {violations} with a violation")
    sys.exit(violations > 0)


main()
