"""Kills the daemon of a mount at random moments under a mixed load, mounts again, and holds what is there against what
was acknowledged. Usage: kill.py SERO DIRECTORY ROUNDS [SEED]"""

import os
import random
import signal
import subprocess
import sys
import time

from crashload import Load


def main():
    sero, place, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.randrange(1 << 30)
    print(f"kill: {rounds} rounds, seed {seed}")
    dice = random.Random(seed)
    vault, mount, secret = f"{place}/vault", f"{place}/open", f"{place}/secret"
    os.makedirs(mount, exist_ok=True)
    with open(os.open(secret, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write("only for this test\n")
    cheap = ["--kdf-memory", "8", "--kdf-passes", "1", "--kdf-lanes", "1"]
    subprocess.run([sero, "create", vault, *cheap, "--password-file", secret], check=True, stdout=subprocess.DEVNULL)
    load = Load(mount)
    violations = 0
    daemon = None
    try:
        for number in range(rounds):
            log = open(f"{place}/log", "a")
            daemon = subprocess.Popen([sero, "mount", vault, mount, "--password-file", secret, "--foreground"], stdout=log, stderr=log)
            until = time.monotonic() + 30
            while not os.path.ismount(mount):
                if daemon.poll() is not None or time.monotonic() > until:
                    sys.exit(f"round {number}: the vault does not mount; see {place}/log")
                time.sleep(0.02)
            wrong = load.check()
            violations += bool(wrong)
            for line in wrong[:8]:
                print(f"round {number}: {line}")
            load.stop.clear()
            threads = load.run(seed + number)
            time.sleep(dice.uniform(0.05, 2.5))
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
            load.stop.set()
            subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
            for thread in threads:
                thread.join(30)
            if number % 10 == 9:
                # What is old would only make the checks slower.
                load.made, load.folders = set(list(load.made)[-50:]), set(list(load.folders)[-50:])
    finally:
        if daemon is not None and daemon.poll() is None:
            daemon.kill()
        subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
    print(f"kill: {rounds} rounds, {violations} with a violation")
    sys.exit(violations > 0)


main()
