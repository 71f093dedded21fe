//! What must come of an attack on a home, from its bytes alone: which pages are lost, and which are not.

use std::collections::BTreeSet;
use std::sync::Mutex;

use log::Level;
use sero::format::geometry::{BlockIndex, Child, HEADER_LEN, Node, at_block, page_count};
use sero::vault::{Finding, IntegrityError, Mode, Severity, VaultError, VerifyObserver, VerifyOptions};

use super::specimen::{Content, Opened, PAGE, Specimen, Victim, logged, open};

/// What reading has to come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// The file does not open, or nothing of it reads.
    Refused,
    /// These pages do not read, for so many reasons; all others do.
    Lost { pages: BTreeSet<u64>, reasons: usize },
}

impl Expected {
    pub fn is_noticed(&self) -> bool {
        *self != Self::Lost { pages: BTreeSet::new(), reasons: 0 }
    }
}

/// What is lost of a file whose home should be `home`, and is `found`.
pub fn expect(content: &Content, home: &[u8], found: &[u8]) -> Expected {
    let size = content.bytes.len() as u64;
    if home.len() != found.len() || home[..HEADER_LEN] != found[..HEADER_LEN] {
        return Expected::Refused;
    }
    if home.len() <= 4 * PAGE {
        // A blob is one message.
        let pages = if home == found { BTreeSet::new() } else { (0..page_count(size)).collect() };
        return Expected::Lost { reasons: usize::from(!pages.is_empty()), pages };
    }
    let mut pages = BTreeSet::new();
    let mut nodes: Vec<Node> = Vec::new();
    let mut reasons = 0;
    for (block, (is, was)) in found.chunks(PAGE).zip(home.chunks(PAGE)).enumerate() {
        if is == was {
            continue;
        }
        match at_block(BlockIndex(block as u64)).unwrap() {
            Child::Node(node) if node.is_root() => return Expected::Refused,
            // In the order of blocks a node comes before what is below it.
            Child::Node(node) => {
                let span = node.first_page.0..node.first_page.0 + node.page_span();
                let named = content.pages.range(span.clone()).next().is_some();
                let within = nodes
                    .iter()
                    .any(|above| (above.first_page.0..above.first_page.0 + above.page_span()).contains(&span.start));
                if named && !within {
                    pages.extend(span.start..span.end.min(page_count(size)));
                    nodes.push(node);
                    reasons += 1;
                }
            }
            Child::Page(page) => {
                if content.pages.contains(&page.0) && pages.insert(page.0) {
                    reasons += 1;
                }
            }
        }
    }
    Expected::Lost { pages, reasons }
}

/// Reads the victim as a fresh mount would, and holds it against what is expected of this version.
pub fn check(what: &str, specimen: &Specimen, victim: &Victim, content: &Content, expected: &Expected) {
    let path = specimen.shown(victim);
    let vault = open(&specimen.vault, Mode::ReadOnly);
    check_verify(what, &vault, victim, &path, expected);
    let (read, lines) = logged(Level::Warn, || read(&vault.root(), &victim.name));
    let size = content.bytes.len() as u64;
    let mut lost = BTreeSet::new();
    match &read {
        Err(error) => {
            assert_eq!(*expected, Expected::Refused, "{what}: {error}");
            assert_eq!((error.path.as_str(), lines.len()), (path.as_str(), 1), "{what}: {lines:?}");
            assert!(lines[0].contains(&error.reason), "{what}: {lines:?}");
            return;
        }
        Ok((len, _)) => assert_eq!(*len, size, "{what}: it opens with another size"),
    }
    for (page, read) in read.unwrap().1.into_iter().enumerate() {
        let wanted = &content.bytes[page * PAGE..content.bytes.len().min((page + 1) * PAGE)];
        match read {
            Ok(bytes) => assert!(bytes == wanted, "{what}: page {page} reads as something else, and nothing is said"),
            Err(error) => {
                lost.insert(page as u64);
                assert_eq!(error.path, path, "{what}");
                let own = expected.pages_are_own(page as u64, &error);
                assert!(own, "{what}: page {page}: {error}");
            }
        }
    }
    let Expected::Lost { pages, reasons } = expected else { panic!("{what}: it opens, and pages {lost:?} are lost") };
    assert_eq!(lost, *pages, "{what}: what is lost");
    assert_eq!(lines.len(), *reasons, "{what}: a line for each thing that is damaged, and not more: {lines:?}");
    assert!(lines.iter().all(|line| line.contains(&path)), "{what}: {lines:?}");
}

/// `sero verify` finds what reading finds, and nothing else.
fn check_verify(what: &str, vault: &Opened, victim: &Victim, path: &str, expected: &Expected) {
    let findings = Findings::default();
    let options = VerifyOptions { paths: vec![victim.name.clone()], jobs: 1 };
    let summary = vault.verify(&options, &findings).unwrap_or_else(|error| panic!("{what}: verify: {error}"));
    let found = findings.0.into_inner().unwrap();
    assert_eq!(summary.is_whole(), !expected.is_noticed(), "{what}: verify: {found:?}");
    assert_eq!(found.is_empty(), !expected.is_noticed(), "{what}: verify: {found:?}");
    for finding in &found {
        assert_eq!((finding.severity, finding.backing.to_str()), (Severity::Damage, Some(path)), "{what}: {finding:?}");
    }
    if let Expected::Lost { pages, .. } = expected {
        for page in pages.iter().filter(|page| victim.new.0.pages.contains(page)) {
            let at = page * PAGE as u64;
            let named = found.iter().any(|finding| {
                finding.extent.is_none_or(|of| (of.offset_bytes..of.offset_bytes + of.len_bytes).contains(&at))
            });
            assert!(named, "{what}: verify does not find page {page}: {found:?}");
        }
    }
}

#[derive(Default)]
struct Findings(Mutex<Vec<Finding>>);

impl VerifyObserver for Findings {
    fn found(&self, finding: Finding) {
        self.0.lock().unwrap().push(finding);
    }
}

impl Expected {
    /// A page's own damage names the page; a node's, and a blob's, the node or the content.
    fn pages_are_own(&self, page: u64, error: &IntegrityError) -> bool {
        let Self::Lost { pages, .. } = self else { return false };
        pages.contains(&page) && error.page.is_none_or(|named| named == page || error.reason.contains("content"))
    }
}

type Pages = Vec<Result<Vec<u8>, IntegrityError>>;

/// The size of a file and each of its pages, read one by one.
pub fn read(folder: &super::specimen::Folder, name: &[u8]) -> Result<(u64, Pages), IntegrityError> {
    let only_integrity = |error| match error {
        VaultError::Integrity(error) => error,
        other => panic!("damage is an integrity error, and not: {other}"),
    };
    let file = folder.open_file(name).map_err(only_integrity)?;
    let mut pages = Vec::new();
    let mut any = false;
    for page in 0..page_count(file.len_bytes()) {
        let mut bytes = vec![0xa5; PAGE];
        let read = file.read(page * PAGE as u64, &mut bytes).map(|len| bytes[..len].to_vec()).map_err(only_integrity);
        any |= read.is_err();
        pages.push(read);
    }
    // One request over all of it is not answered in part.
    let mut all = vec![0; file.len_bytes() as usize];
    assert_eq!(file.read(0, &mut all).is_err(), any);
    Ok((file.len_bytes(), pages))
}
