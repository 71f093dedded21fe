//! The house rules that a compiler does not check: layers, length, what may not stand in code, comments that say why a
//! dependency is there, links that resolve, scripts that stop at the first error.

#[path = "tidy/claims.rs"]
mod claims;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The table of src/lib.rs: a module, and what it may import besides itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("crypto", &[]),
    ("storage", &[]),
    ("format", &["crypto"]),
    ("vault", &["crypto", "storage", "format"]),
    ("fs", &["vault"]),
    ("fuse", &["fs"]),
    ("cli", &["fuse", "vault"]),
];

const MAX_LINES: usize = 650;

/// The only files that may have unsafe code.
const UNSAFE: [&str; 3] =
    ["src/fuse/transport/uring/ring.rs", "src/fuse/transport/uring/policy.rs", "src/fuse/write_back.rs"];

/// Modules that read bytes of the disk and of users: there, nothing may panic on them.
const NO_PANIC: &[&str] = &["format", "vault", "fs"];

/// Split, so that this file does not break its own rules.
const MACHINE_TRACES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("deb.deb", "ian.org"),
    concat!("static.crates", ".io"),
    concat!("index.crates", ".io"),
    concat!("pypi", ".org"),
    concat!("files.python", "hosted.org"),
    concat!("registry.npm", "js.org"),
];

#[test]
fn the_table_here_is_the_one_of_the_crate_documentation() {
    let documentation = read(&root().join("src/lib.rs"));
    for (module, allowed) in LAYERS {
        let allowed = if allowed.is_empty() { "nothing of the crate".to_owned() } else { allowed.join(", ") };
        let row = documentation
            .lines()
            .find(|line| line.starts_with(&format!("//! | [`{module}`]")))
            .unwrap_or_else(|| panic!("src/lib.rs has no row for {module}"));
        assert!(row.ends_with(&format!("| {allowed} |")), "{row} does not end with {allowed}");
    }
}

#[test]
fn layers_import_only_what_is_below_them() {
    let mut report = Report::default();
    for source in Source::all_of("src") {
        let Some((_, allowed)) = LAYERS.iter().find(|(module, _)| *module == source.module) else {
            if !matches!(source.module.as_str(), "lib" | "main") {
                report.add(
                    &source.shown,
                    1,
                    &format!("the module {} is not in the table of src/lib.rs", source.module),
                );
            }
            continue;
        };
        let code = source.code_without_tests();
        for (line, imported) in imported_modules(&code, source.depth) {
            let known = LAYERS.iter().any(|(module, _)| *module == imported);
            if known && imported != source.module && !allowed.contains(&imported.as_str()) {
                report.add(&source.shown, line, &format!("{} may not import {imported}", source.module));
            }
        }
    }
    report.finish();
}

#[test]
fn files_are_short() {
    let mut report = Report::default();
    for source in Source::all_of("src").chain(Source::all_of("tests")) {
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            report.add(&source.shown, MAX_LINES, &format!("{lines} lines; more than {MAX_LINES} want to be a folder"));
        }
    }
    report.finish();
}

#[test]
fn nothing_is_left_to_do() {
    let mut report = Report::default();
    for source in Source::all_of("src").chain(Source::all_of("tests")) {
        let code = source.code();
        for name in ["todo", "unimplemented", "dbg"] {
            for (line, text) in numbered(&code) {
                if words(text).any(|(at, word)| word == name && text[at + word.len()..].starts_with('!')) {
                    report.add(&source.shown, line, &format!("{name}! is left"));
                }
            }
        }
    }
    report.finish();
}

#[test]
fn nothing_panics_on_foreign_bytes() {
    let mut report = Report::default();
    for source in Source::all_of("src").filter(|source| NO_PANIC.contains(&source.module.as_str())) {
        for (line, text) in numbered(&source.code_without_tests()) {
            for call in [".unwrap()", ".expect("] {
                if text.contains(call) {
                    report.add(&source.shown, line, &format!("{call} in code that reads foreign bytes"));
                }
            }
        }
    }
    report.finish();
}

#[test]
fn unsafe_code_is_in_three_files() {
    let mut report = Report::default();
    let elsewhere = |source: &Source| !UNSAFE.contains(&&*source.shown);
    for source in Source::all_of("src").chain(Source::all_of("tests")).filter(elsewhere) {
        report.each_word(&source, &source.code(), "unsafe", "unsafe code");
    }
    report.finish();
    assert!(read(&root().join("src/lib.rs")).contains("#![deny(unsafe_code)]"));
}

#[test]
fn no_text_names_a_machine_and_none_has_tabs() {
    let mut report = Report::default();
    for path in texts() {
        let text = read(&path);
        for (line, content) in numbered(&text) {
            for trace in MACHINE_TRACES {
                if has_trace(content, trace) {
                    report.add(&shown(&path), line, &format!("names a machine: {trace}"));
                }
            }
            if content.contains('\t') {
                report.add(&shown(&path), line, "a tab");
            }
        }
    }
    let lock = read(&root().join("Cargo.lock"));
    for (line, content) in numbered(&lock).filter(|(_, content)| content.starts_with("source = ")) {
        if content != "source = \"registry+https://github.com/rust-lang/crates.io-index\"" {
            report.add("Cargo.lock", line, "a dependency that is not from crates.io");
        }
    }
    report.finish();
}

#[test]
fn every_dependency_says_why() {
    let mut report = Report::default();
    let manifest = read(&root().join("Cargo.toml"));
    let mut in_dependencies = false;
    let mut previous = "";
    for (line, content) in numbered(&manifest) {
        let content = content.trim();
        if let Some(section) = content.strip_prefix('[') {
            in_dependencies = section.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies && !content.is_empty() && !content.starts_with('#') {
            let is_said = previous.starts_with("# ") && !previous.starts_with("# ---");
            if !is_said && !content.contains(" # ") {
                let name = content.split([' ', '=']).next().unwrap_or_default();
                report.add("Cargo.toml", line, &format!("{name}: no comment above it says why"));
            }
        }
        previous = content;
    }
    report.finish();
}

#[test]
fn every_relative_link_resolves() {
    let mut report = Report::default();
    for path in texts().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = read(&path);
        for (line, target) in links(&text) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let destination = match file {
                "" => path.clone(),
                file => path.parent().map(|folder| folder.join(file)).unwrap_or_default(),
            };
            if !destination.exists() {
                report.add(&shown(&path), line, &format!("the link to {target} leads nowhere"));
            } else if !anchor.is_empty()
                && destination.extension().is_some_and(|extension| extension == "md")
                && !anchors(&read(&destination)).contains(anchor)
            {
                report.add(&shown(&path), line, &format!("{target}: there is no such heading"));
            }
        }
    }
    report.finish();
}

#[test]
fn scripts_can_be_run_and_stop_at_the_first_error() {
    let mut report = Report::default();
    let scripts = files_below(&root().join("scripts"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "sh"))
        .chain([root().join(".ci/run")]);
    for path in scripts {
        let text = read(&path);
        let mode = fs::metadata(&path).map(|metadata| metadata.permissions().mode()).unwrap_or(0);
        if mode & 0o111 != 0o111 {
            report.add(&shown(&path), 1, "cannot be executed");
        }
        if text.lines().next() != Some("#!/usr/bin/env bash") {
            report.add(&shown(&path), 1, "does not start with #!/usr/bin/env bash");
        }
        let first = numbered(&text).find(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        if first.is_none_or(|(_, line)| line != "set -euo pipefail") {
            report.add(&shown(&path), first.map_or(1, |(line, _)| line), "does not start with set -euo pipefail");
        }
    }
    report.finish();
}

#[test]
fn the_lexer_keeps_code_and_drops_the_rest() {
    let text = r##"
// crate::fs
use crate::vault::File; /* crate::fs /* nested */ crate::fuse */
const A: &str = "crate::fs \" // x"; const B: &str = r#"crate::fs " "#; const C: char = '"'; const D: char = '\'';
fn f<'a>(x: &'a str) { crate::format::g(x) }
use crate::{crypto::{aead, keys}, storage};
use super::super::cli::run;
#[cfg(test)]
mod tests { use crate::fuse::X; fn g() { "}"; } }
fn after() { crate::fs::h() }
"##;
    let source =
        Source { shown: "x".to_owned(), module: "vault".to_owned(), depth: 2, is_test: false, text: text.to_owned() };
    let found: Vec<_> = imported_modules(&source.code_without_tests(), 2);
    let found: Vec<_> = found.iter().map(|(line, module)| (*line, module.as_str())).collect();
    assert_eq!(found, [(3, "vault"), (5, "format"), (6, "crypto"), (6, "storage"), (7, "cli"), (10, "fs")]);
}

/// All that a rule found, said at once.
#[derive(Default)]
struct Report {
    count: usize,
    text: String,
}

impl Report {
    fn add(&mut self, file: &str, line: usize, what: &str) {
        self.count += 1;
        let _ = writeln!(self.text, "{file}:{line}: {what}");
    }

    fn each_word(&mut self, source: &Source, code: &str, name: &str, what: &str) {
        for (line, text) in numbered(code) {
            if words(text).any(|(_, word)| word == name) {
                self.add(&source.shown, line, what);
            }
        }
    }

    fn finish(self) {
        assert!(self.count == 0, "{} found:\n{}", self.count, self.text);
    }
}

struct Source {
    /// As reports name it.
    shown: String,
    /// The top-level module that it belongs to.
    module: String,
    /// How many `super` lead from it to the crate's root.
    depth: usize,
    is_test: bool,
    text: String,
}

impl Source {
    fn all_of(folder: &str) -> impl Iterator<Item = Source> {
        let base = root().join(folder);
        files_below(&base).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")).map(
            move |path| {
                let inside = path.strip_prefix(&base).unwrap().with_extension("");
                let parts: Vec<String> =
                    inside.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
                Source {
                    shown: shown(&path),
                    module: parts[0].clone(),
                    depth: parts.len(),
                    is_test: parts.iter().any(|part| part == "tests" || part.ends_with("_tests")),
                    text: read(&path),
                }
            },
        )
    }

    /// Comments and what stands in quotes are blanked; lines stay.
    fn code(&self) -> String {
        blank_comments_and_strings(&self.text)
    }

    /// Tests may build on any layer, and may panic.
    fn code_without_tests(&self) -> String {
        if self.is_test { String::new() } else { blank_tests(self.code()) }
    }
}

fn blank_comments_and_strings(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let is_name = |at: usize| characters.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    while at < characters.len() {
        let end = match characters[at] {
            '/' if characters.get(at + 1) == Some(&'/') => {
                (at..characters.len()).find(|&i| characters[i] == '\n').unwrap_or(characters.len())
            }
            '/' if characters.get(at + 1) == Some(&'*') => end_of_block_comment(&characters, at),
            '"' => end_of_quoted(&characters, at, '"'),
            'r' if !(at > 0 && is_name(at - 1) && characters[at - 1] != 'b') => {
                end_of_raw_string(&characters, at).unwrap_or(at)
            }
            // A lifetime has no closing quote two places on.
            '\'' if characters.get(at + 1) == Some(&'\\') || characters.get(at + 2) == Some(&'\'') => {
                end_of_quoted(&characters, at, '\'')
            }
            _ => at,
        };
        if end == at {
            out.push(characters[at]);
            at += 1;
        } else {
            out.extend(characters[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

fn end_of_block_comment(characters: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < characters.len() {
        match (characters[at], characters[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    characters.len()
}

fn end_of_quoted(characters: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < characters.len() {
        match characters[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    characters.len()
}

fn end_of_raw_string(characters: &[char], start: usize) -> Option<usize> {
    let hashes = characters[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if characters.get(open) != Some(&'"') {
        return None;
    }
    let is_end = |at: usize| {
        characters[at] == '"' && characters[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (open + 1..characters.len()).find(|&at| is_end(at)).map(|at| at + 1 + hashes)
}

/// Blanks every item under an attribute that says that it is there for tests only.
fn blank_tests(code: String) -> String {
    let mut bytes = code.clone().into_bytes();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(any(test", "#[test]"] {
        for (start, _) in code.match_indices(attribute) {
            let end = end_of_item(code.as_bytes(), start + attribute.len());
            for byte in &mut bytes[start..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An item ends with its braces, or with a semicolon outside all brackets.
fn end_of_item(code: &[u8], start: usize) -> usize {
    let mut depth = 0_i32;
    for (at, byte) in code.iter().enumerate().skip(start) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'}' => {
                depth -= 1;
                if depth <= 0 {
                    return at + 1;
                }
            }
            b';' if depth <= 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The top-level modules that are named by paths from the crate's root: `crate::a`, `use crate::{a, b}`, and as many
/// `super` as lead there.
fn imported_modules(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let supers = "super::".repeat(depth);
    for prefix in ["crate::", supers.as_str()] {
        for (start, _) in code.match_indices(prefix) {
            if code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$' || c == ':') {
                continue;
            }
            let line = code[..start].matches('\n').count() + 1;
            let rest = &code[start + prefix.len()..];
            found.extend(first_segments(rest).into_iter().map(|module| (line, module)));
        }
    }
    found.sort();
    found
}

/// `a::b` -> a; `{a::{b, c}, d}` -> a, d.
fn first_segments(rest: &str) -> Vec<String> {
    let segment = |text: &str| words(text).next().map(|(_, word)| word.to_owned());
    if !rest.starts_with('{') {
        return segment(rest).into_iter().collect();
    }
    let mut depth = 0;
    let mut segments = Vec::new();
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(c, '{' | ',') {
            let next = rest[at + 1..].trim_start();
            if !next.starts_with(['}', '{']) {
                segments.extend(segment(next));
            }
        }
    }
    segments
}

/// Links of Markdown outside code: `[text](target)` and `[name]: target`.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (line, content) in numbered(text) {
        if content.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let prose: String = content.split('`').step_by(2).collect::<Vec<_>>().join("code");
        let inline = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let definition = content
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
            .and_then(|(_, target)| target.split(' ').next());
        for target in inline.chain(definition) {
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push((line, target.to_owned()));
            }
        }
    }
    found
}

/// The names of headings, as they are made into anchors.
fn anchors(text: &str) -> BTreeSet<String> {
    let slug = |heading: &str| -> String {
        heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    text.lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#'))).collect()
}

/// A path is named only where it starts: `home/work/` does not count.
fn has_trace(content: &str, trace: &str) -> bool {
    content.match_indices(trace).any(|(at, _)| {
        !trace.starts_with('/')
            || !content[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '}'))
    })
}

fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
        .map(move |word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// All files of the project that are text.
fn texts() -> impl Iterator<Item = PathBuf> {
    const SUFFIXES: &[&str] = &["rs", "md", "toml", "sh", "py", "yml", "yaml", "json", "txt", "service", "svg"];
    files_below(&root()).into_iter().filter(|path| {
        let is_named = path.extension().is_some_and(|suffix| SUFFIXES.iter().any(|known| suffix == *known));
        is_named || path.ends_with(".ci/run")
    })
}

/// Regular files; what version control and cargo keep for themselves is left out, and no link is followed.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && name != ".git" && !name.to_string_lossy().starts_with("target") && name != ".cargo-home"
            {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
