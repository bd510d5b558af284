//! A vendor's words as a person may read them: without what was sent, without control bytes, and short.
//!
//! What must never enter: a text that was cut before it was cleaned; half of a credential would stay in it.

use zeroize::Zeroizing;

use crate::secret::Field;
use crate::stage::scrub::forms::Forms;

/// The longest, in characters.
const LONGEST: usize = 200;

/// What must not be repeated.
pub(super) struct Words(Vec<Zeroizing<Vec<u8>>>);

impl Words {
    /// All of these fields' values, secret or not.
    pub(super) fn of(fields: &[Field]) -> Self {
        Self(fields.iter().map(|field| Zeroizing::new(field.value.expose().to_vec())).collect())
    }

    /// This too.
    pub(super) fn hide(&mut self, value: &[u8]) {
        self.0.push(Zeroizing::new(value.to_vec()));
    }

    /// What is left of a text.
    pub(super) fn cleaned(&self, said: &[u8]) -> String {
        let forms = Forms::of(self.0.iter().map(|value| value.as_slice()), []);
        let mut said = Zeroizing::new(said.to_vec());
        let ranges = forms.ranges(&said);
        // Three stars for each, so that its length is not told; from the last on, so that places stay.
        for range in ranges.into_iter().rev() {
            if said.get(range.clone()).is_some() {
                said.splice(range, *b"***");
            }
        }
        // Too short to be looked for in every form: a text that has one is not repeated at all.
        let short =
            |value: &&Zeroizing<Vec<u8>>| (3..crate::envelope::SHORTEST_SCRUBBED).contains(&value.len());
        let mut hidden = self.0.iter().filter(short);
        if hidden.any(|value| memchr::memmem::find(&said, value).is_some()) {
            return String::new();
        }
        let text = String::from_utf8_lossy(&said);
        let spaced = text.chars().map(|c| if c.is_control() || is_hidden(c) { ' ' } else { c });
        let mut cleaned = String::new();
        for c in spaced {
            if c != ' ' || !cleaned.ends_with(' ') {
                cleaned.push(c);
            }
        }
        cleaned.trim().chars().take(LONGEST).collect()
    }
}

/// Marks that a reader does not see, and that turn the text round them.
const fn is_hidden(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
