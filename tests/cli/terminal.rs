//! sero on a pseudo-terminal.

use std::process::Command;

use serde_json::json;

use crate::harness::{Outcome, run};

/// Runs sero on a pseudo-terminal. Each answer is typed when the text before it was shown; `^C` is Ctrl-C.
#[track_caller]
pub fn on_a_terminal(arguments: &[&str], answers: &[(&str, &str)]) -> Outcome {
    let script = r#"
import json, os, pty, sys, termios, time
program, answers = json.loads(sys.argv[1]), json.loads(sys.argv[2])
pid, terminal = pty.fork()
if pid == 0:
    os.execv(program[0], program)
said, place = b"", 0
try:
    while True:
        if answers and answers[0][0].encode() in said[place:]:
            place = len(said)
            prompt, answer = answers.pop(0)
            # Nobody types a passphrase before the terminal is ready for it.
            while ("assphrase" in prompt or prompt == "again") and termios.tcgetattr(terminal)[3] & termios.ECHO:
                time.sleep(0.01)
            os.write(terminal, b"\x03" if answer == "^C" else answer.encode() + b"\n")
        piece = os.read(terminal, 4096)
        if not piece:
            break
        said += piece
except OSError:
    pass
_, status = os.waitpid(pid, 0)
print(said.decode())
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
"#;
    let program: Vec<&str> = [env!("CARGO_BIN_EXE_sero")].iter().chain(arguments).copied().collect();
    let (program, answers) = (json!(program).to_string(), json!(answers).to_string());
    run(Command::new("python3").args(["-c", script, &program, &answers]))
}
