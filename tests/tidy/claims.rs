//! Claims in docs/semantics.md are quoted above the test that shows them, word for word.

use super::{Report, numbered, read, root};

/// A row of the table: `| claim | [test](file) |`.
struct Claim<'a> {
    line: usize,
    text: &'a str,
    test: &'a str,
    file: &'a str,
}

fn claims(document: &str) -> Vec<Claim<'_>> {
    let mut found = Vec::new();
    for (line, row) in numbered(document) {
        let Some((text, shown_by)) = row.trim().trim_matches('|').rsplit_once(" | ") else { continue };
        for link in shown_by.split(", ") {
            let Some((test, file)) = link.trim().strip_prefix("[`").and_then(|link| link.split_once("`](")) else {
                continue;
            };
            found.push(Claim { line, text: text.trim(), test, file: file.trim_end_matches(')') });
        }
    }
    found
}

/// The comment that stands directly above a function, without its marks, on one line.
fn comment_above(source: &str, line_of_test: usize) -> String {
    let lines: Vec<&str> = source.lines().take(line_of_test.saturating_sub(1)).collect();
    let mut quote: Vec<&str> = lines
        .into_iter()
        .rev()
        .map(str::trim)
        .filter(|line| !line.starts_with("#["))
        .take_while(|line| line.starts_with('#') || line.starts_with("///"))
        .map(|line| line.trim_start_matches(['/', '#', ' ', '>']))
        .collect();
    quote.reverse();
    quote.join(" ")
}

#[test]
fn every_claim_names_the_test_that_quotes_it() {
    const DOCUMENT: &str = "docs/semantics.md";
    let mut report = Report::default();
    let document = read(&root().join(DOCUMENT));
    let claims = claims(&document);
    assert!(claims.len() > 30, "{DOCUMENT} has {} claims only", claims.len());
    for claim in &claims {
        let path = root().join("docs").join(claim.file);
        if !path.exists() {
            report.add(DOCUMENT, claim.line, &format!("{} does not exist", claim.file));
            continue;
        }
        let source = read(&path);
        let heads = [format!("fn {}()", claim.test), format!("{}() {{", claim.test)];
        let Some((line, _)) =
            numbered(&source).find(|(_, line)| heads.iter().any(|head| line.trim_start().starts_with(head.as_str())))
        else {
            report.add(DOCUMENT, claim.line, &format!("{} has no test {}", claim.file, claim.test));
            continue;
        };
        if !comment_above(&source, line).contains(claim.text) {
            report.add(DOCUMENT, claim.line, &format!("the comment above {} does not quote this claim", claim.test));
        }
    }
    // The other way round: what a test quotes is still promised.
    for path in super::files_below(&root().join("tests/semantics")) {
        for (line, text) in numbered(&read(&path)) {
            if let Some(quote) = text.strip_prefix("/// > ")
                && !claims.iter().any(|claim| claim.text == quote)
            {
                report.add(&super::shown(&path), line, "quotes what docs/semantics.md does not say");
            }
        }
    }
    report.finish();
}
