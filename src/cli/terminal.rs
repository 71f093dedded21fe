//! Text that others wrote, on a terminal.

/// With what could steer a terminal escaped.
pub(super) fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() { safe.extend(char.escape_default()) } else { safe.push(char) }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_would_steer_a_terminal_is_escaped() {
        assert_eq!(shown("a\u{1b}[2J\nü"), "a\\u{1b}[2J\\nü");
    }
}
