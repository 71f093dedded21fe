//! What an attacker with the backing's bytes, old copies of them and another vault can write into a home.

use sero::format::geometry::HEADER_LEN;

use super::specimen::{PAGE, Specimen, Victim};

/// What it is, and the home that it makes.
pub type Attack = (String, Vec<u8>);

/// Places that stand for all others: the edges of what is sealed by itself, and of sectors.
fn offsets(len: usize) -> Vec<usize> {
    let step = if len > 40 * PAGE { 7 } else { 1 };
    let mut offsets: Vec<usize> = (0..len.min(HEADER_LEN + 32)).step_by(step).collect();
    for block in blocks(len) {
        let end = len.min((block + 1) * PAGE);
        offsets.extend([block * PAGE, block * PAGE + (end - block * PAGE) / 2, end - 1]);
    }
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}

/// Blocks to try one by one: all of them, or in a large file those around nodes, and some in between.
fn blocks(len: usize) -> Vec<usize> {
    let all = len.div_ceil(PAGE);
    (0..all)
        .filter(|block| all < 40 || block % 23 == 0 || [119, 120, 121, 249, 250, 251, 379, 380].contains(block))
        .collect()
}

fn edited(home: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut home = home.to_vec();
    let end = home.len().min(at + bytes.len());
    if at < end {
        home[at..end].copy_from_slice(&bytes[..end - at]);
    }
    home
}

pub fn flipped_bits(victim: &Victim) -> Vec<Attack> {
    let home = &victim.new.1;
    let flip = |(count, at): (usize, usize)| {
        let bit = (count * 5) % 8;
        (format!("bit {bit} of byte {at}"), edited(home, at, &[home[at] ^ (1 << bit)]))
    };
    offsets(home.len()).into_iter().enumerate().map(flip).collect()
}

/// Sectors and blocks that read as zeros: overwritten, discarded, or punched.
pub fn zeroed(victim: &Victim) -> Vec<Attack> {
    let home = &victim.new.1;
    let mut attacks = Vec::new();
    for block in blocks(home.len()) {
        attacks.push((format!("block {block} zeroed"), edited(home, block * PAGE, &[0; PAGE])));
        for sector in [0, 3, 7] {
            let at = block * PAGE + sector * 512;
            attacks.push((format!("sector at {at} zeroed"), edited(home, at, &[0; 512])));
        }
    }
    for count in [2, 4, 16] {
        attacks.push((format!("{count} blocks zeroed"), edited(home, PAGE, &vec![0; count * PAGE])));
    }
    attacks.push(("everything zeroed".into(), vec![0; home.len()]));
    attacks
}

/// Blocks of the same file in other places.
pub fn moved(victim: &Victim) -> Vec<Attack> {
    let home = &victim.new.1;
    let block = |index: usize| home.get(index * PAGE..home.len().min((index + 1) * PAGE)).unwrap_or_default();
    let mut attacks = Vec::new();
    let some = blocks(home.len());
    for pair in some.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        attacks.push((format!("block {a} over block {b}"), edited(home, b * PAGE, block(a))));
        let swapped = edited(&edited(home, b * PAGE, block(a)), a * PAGE, block(b));
        attacks.push((format!("blocks {a} and {b} swapped"), swapped));
    }
    // A leaf of the tree in the place of another, and of a node above.
    for (a, b) in [(120, 250), (250, 379), (249, 250), (0, 120)] {
        attacks.push((format!("node {a} over node {b}"), edited(home, b * PAGE, block(a))));
    }
    attacks
}

/// Bytes of other files: of this vault, and of another with the same files.
pub fn foreign(victim: &Victim, specimen: &Specimen, other: &Specimen) -> Vec<Attack> {
    let home = &victim.new.1;
    let mut attacks = Vec::new();
    let neighbours =
        specimen.victims.iter().filter(|neighbour| neighbour.name != victim.name).map(|n| ("another file", n));
    let strangers = [("another vault", other.victim(&victim.name))];
    for (of, from) in neighbours.chain(strangers) {
        let bytes = &from.new.1;
        let shown = from.name.escape_ascii();
        attacks.push((format!("header of {of} ({shown})"), edited(home, 0, &bytes[..HEADER_LEN])));
        attacks.push((format!("salt of {of} ({shown})"), edited(home, 0, &bytes[..32])));
        for block in blocks(home.len().min(bytes.len())).into_iter().take(6) {
            let end = bytes.len().min((block + 1) * PAGE);
            attacks.push((
                format!("block {block} of {of} ({shown})"),
                edited(home, block * PAGE, &bytes[block * PAGE..end]),
            ));
        }
        attacks.push((format!("body of {of} ({shown})"), edited(home, HEADER_LEN, &bytes[HEADER_LEN..])));
    }
    attacks
}

/// What stood there in the version before.
pub fn replayed(victim: &Victim) -> Vec<Attack> {
    let (home, old) = (&victim.new.1, &victim.old.1);
    let mut attacks = vec![
        ("the older header".into(), edited(home, 0, &old[..HEADER_LEN])),
        ("the older body".into(), edited(home, HEADER_LEN, &old[HEADER_LEN..])),
        ("the older salt".into(), edited(home, 0, &old[..32])),
    ];
    if old.len() > 4 * PAGE {
        attacks
            .push(("the older root under the newer header".into(), edited(home, HEADER_LEN, &old[HEADER_LEN..PAGE])));
        attacks.push(("the newer root under the older header".into(), edited(home, 0, &old[..HEADER_LEN])));
        for block in blocks(home.len()).into_iter().filter(|block| *block > 0) {
            let end = old.len().min((block + 1) * PAGE);
            attacks.push((format!("the older block {block}"), edited(home, block * PAGE, &old[block * PAGE..end])));
        }
        attacks.push(("all older blocks but the first".into(), edited(home, PAGE, &old[PAGE..])));
    }
    attacks
}

/// Other lengths.
pub fn resized(victim: &Victim) -> Vec<Attack> {
    let home = &victim.new.1;
    let len = home.len();
    let by = [1, 16, 127, 128, 129, 511, 512, 513, 4095, 4096, 4097, 8192];
    let mut attacks = Vec::new();
    let mut lengths: Vec<usize> = by.iter().map(|by| len.saturating_sub(*by)).collect();
    lengths.extend(by);
    lengths.extend([0, 16_256, 16_384, 16_385, 119 * PAGE, 120 * PAGE, 121 * PAGE]);
    lengths.extend(blocks(len).into_iter().map(|block| block * PAGE));
    lengths.retain(|shorter| *shorter < len);
    lengths.sort_unstable();
    lengths.dedup();
    for shorter in lengths {
        attacks.push((format!("cut to {shorter}"), home[..shorter].to_vec()));
    }
    for by in by {
        let mut longer = home.clone();
        longer.resize(len + by, 0);
        attacks.push((format!("extended by {by} zeros"), longer));
        let mut longer = home.clone();
        longer.extend(home.iter().cycle().skip(5).take(by));
        attacks.push((format!("extended by {by} bytes"), longer));
    }
    // The smaller lengths that a file may have, with the newer or older header over them.
    if len > 6 * PAGE {
        let shorter = len - len % PAGE - PAGE;
        attacks.push(("cut, under the older header".into(), edited(&home[..shorter], 0, &victim.old.1[..HEADER_LEN])));
    }
    attacks
}
