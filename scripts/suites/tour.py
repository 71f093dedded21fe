"""Runs a script of shell commands in a terminal of its own, as somebody who types the passphrase whenever asked.
Usage: tour.py SCRIPT PASSPHRASE. Ends with the script's exit code; what the terminal showed is printed."""

import os
import pty
import select
import sys
import termios
import time

# What sero asks, at the end of a line that has no newline yet.
QUESTIONS = (b"assphrase", b"The same again")


def main():
    script, passphrase = sys.argv[1], sys.argv[2].encode()
    child, terminal = pty.fork()
    if child == 0:
        os.execvp("bash", ["bash", "-eux", script])
    shown, line = b"", b""
    while True:
        try:
            ready, _, _ = select.select([terminal], [], [], 120)
            piece = os.read(terminal, 4096) if ready else b""
        except OSError:
            # The other side is closed.
            piece = b""
        if not piece:
            break
        shown += piece
        line = (line + piece).rsplit(b"\n", 1)[-1]
        if line.endswith(b": ") and any(question in line for question in QUESTIONS):
            # The question comes before the echo is off; nobody types as fast.
            while termios.tcgetattr(terminal)[3] & termios.ECHO:
                time.sleep(0.01)
            os.write(terminal, passphrase + b"\n")
            line = b""
    sys.stdout.write(shown.decode(errors="replace").replace("\r\n", "\n"))
    if passphrase in shown:
        sys.exit("the terminal showed the passphrase")
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


main()
