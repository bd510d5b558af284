//! What somebody probably meant by a word that relay does not know.
//!
//! Only words of relay's own vocabulary are ever suggested: nothing typed by people leaves this file.

/// The candidate nearest to `word`, if it is near enough to be a slip of the fingers: one edit per three
/// letters, at least one. Of equally near ones the first.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A longer word is no slip, and its distance would cost time that its author chooses.
    if word.len() > 64 {
        return None;
    }
    let folded = word.to_ascii_lowercase().replace('-', "_");
    let reach = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&folded, candidate), candidate))
        .filter(|(edits, _)| *edits <= reach)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words, where swapping two neighbours counts once (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let mut last_from = None;
    for (row, f) in from.chars().enumerate() {
        let mut line = vec![row + 1];
        let mut left = row + 1;
        let mut last_to = None;
        for (column, t) in to.iter().enumerate() {
            let at = |cells: &[usize], index: usize| cells.get(index).copied().unwrap_or(usize::MAX - 1);
            let kept = at(&above, column) + usize::from(f != *t);
            let mut cell = kept.min(left + 1).min(at(&above, column + 1) + 1);
            if last_from == Some(*t) && last_to == Some(f) {
                cell = cell.min(at(&before, column.wrapping_sub(1)) + 1);
            }
            line.push(cell);
            left = cell;
            last_to = Some(*t);
        }
        before = std::mem::replace(&mut above, line);
        last_from = Some(f);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["inject", "fields", "allow", "deny", "timeout", "listen"];
        let rows = [
            ("inejct", Some("inject"), "two letters swapped"),
            ("injec", Some("inject"), "a letter missing"),
            ("Inject", Some("inject"), "a capital"),
            ("time-out", Some("timeout"), "a hyphen"),
            ("lisen", Some("listen"), "a letter missing inside"),
            ("upstream", None, "another word"),
            ("", None, "no word"),
        ];
        for (word, wanted, mistake) in rows {
            assert_eq!(nearest(word, known), wanted, "{mistake}");
        }
        assert_eq!(nearest(&"inject".repeat(100), known), None, "a word too long to be a slip");
    }

    #[test]
    fn distances_are_counted_right() {
        for (from, to, wanted) in
            [("", "abc", 3), ("abc", "", 3), ("abc", "acb", 1), ("ab", "ba", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(from, to), wanted, "{from} {to}");
        }
    }
}
