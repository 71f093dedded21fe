//! Numbers in sentences.

/// `1 file`, `2 files`, `0 files`.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let tries = |number| count(number, "try", "tries");
        assert_eq!([tries(0), tries(1), tries(2)], ["0 tries", "1 try", "2 tries"]);
    }
}
