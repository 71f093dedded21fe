//! sero on a pseudo-terminal.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::process::Command;

use serde_json::json;

use crate::harness::{Outcome, run};

/// Runs sero on a pseudo-terminal. Each answer is typed when the text before it was shown; `^C` is Ctrl-C.
#[track_caller]
pub fn on_a_terminal(arguments: &[&str], answers: &[(&str, &str)]) -> Outcome {
    program_on_a_terminal(&[&[env!("CARGO_BIN_EXE_sero")], arguments].concat(), answers)
}

/// The same from a shell, which says what the terminal is like each time that sero stopped, and at its end. `^Z` stops it,
/// `SIG...` is sent to it, and what follows `latin-1:` is typed on such a terminal.
#[track_caller]
pub fn from_a_shell(arguments: &[&str], answers: &[(&str, &str)]) -> Outcome {
    let script = r#"set -m; trap : INT; "$@"; code=$?
while [ $code = 148 ]; do stty -a; fg; code=$?; done
stty -a; exit $code"#;
    let shell = ["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_sero")];
    program_on_a_terminal(&[&shell, arguments].concat(), answers)
}

#[track_caller]
fn program_on_a_terminal(program: &[&str], answers: &[(&str, &str)]) -> Outcome {
    let script = r#"
import json, os, pty, signal, sys, termios, time
program, answers = json.loads(sys.argv[1]), json.loads(sys.argv[2])
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(program[0], program)
said, place = b"", 0
try:
    while True:
        if answers and answers[0][0].encode() in said[place:]:
            place = len(said)
            prompt, answer = answers.pop(0)
            # Nobody types a passphrase before the terminal is ready for it.
            while ("assphrase" in prompt or prompt == "again") and termios.tcgetattr(terminal)[3] & termios.ECHO:
                time.sleep(0.01)
            if answer.startswith("SIG"):
                os.killpg(os.tcgetpgrp(terminal), signal.Signals[answer])
            elif answer.startswith("latin-1:"):
                os.write(terminal, answer.removeprefix("latin-1:").encode("latin-1") + b"\n")
            else:
                os.write(terminal, {"^C": b"\x03", "^Z": b"\x1a"}.get(answer, answer.encode() + b"\n"))
        piece = os.read(terminal, 4096)
        if not piece:
            break
        said += piece
except OSError:
    pass
_, status = os.waitpid(pid, 0)
print(said.decode(errors="replace"))
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
"#;
    let (program, answers) = (json!(program).to_string(), json!(answers).to_string());
    run(Command::new("python3").args(["-c", script, &program, &answers]))
}
