//! What sero gives to shells and to man(1): made from the same source as the help, so that it names every command.

#[path = "cli/harness.rs"]
mod harness;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use harness::{run, sero};

/// The commands that the help shows.
fn commands() -> Vec<String> {
    let help = run(sero().arg("--help")).ok().stdout;
    let commands: Vec<String> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    assert!(commands.contains(&"mount".to_owned()), "{commands:?}");
    commands
}

#[test]
fn every_shell_completes_every_command_and_no_hidden_one() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(sero().args(["completions", shell])).ok().stdout;
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
        assert!(script.contains("password-file"), "{shell}");
        assert!(!script.contains("serve"), "{shell} completes a command that is not for users");
    }
}

/// Bash itself completes `sero mo`.
#[test]
fn bash_completes_with_it() {
    let mut script = run(sero().args(["completions", "bash"])).ok().stdout;
    script.push_str("\nCOMP_WORDS=(sero mo); COMP_CWORD=1; _sero sero mo sero; printf '%s\\n' \"${COMPREPLY[@]}\"\n");
    let mut bash =
        Command::new("bash").arg("--norc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash");
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "mount");
}

#[test]
fn an_unknown_shell_is_a_mistake_of_the_command_line() {
    run(sero().args(["completions", "tcl"])).fails(2, "tcl");
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    run(sero().arg("man").arg(directory.path())).ok();
    let mut pages: Vec<String> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|page| page.matches('-').count() <= 1)
        .collect();
    pages.sort();
    let mut expected: Vec<String> = commands().iter().map(|command| format!("sero-{command}.1")).collect();
    expected.push("sero.1".to_owned());
    expected.sort();
    assert_eq!(pages, expected);
    let page = fs::read_to_string(directory.path().join("sero-mount.1")).unwrap();
    assert!(page.starts_with(".") || page.contains(".TH"), "{page}");
    assert!(page.contains("Examples:") && page.contains("foreground"), "{page}");
}

#[test]
fn manual_pages_need_a_directory_that_exists() {
    let directory = tempfile::tempdir().unwrap();
    run(sero().arg("man").arg(directory.path().join("missing"))).fails(1, "give a directory that exists");
}
