//! Bytes out and bytes in: length-prefixed, big-endian, and no input can make the reader panic.
//!
//! Every variable part stands behind its length, so no two different lists of parts have the same bytes.
//! What must never enter: meaning. Which parts a record has is the record's own file's to say.

use super::EnvelopeError;
use crate::model::{FieldName, FieldSpec, Origin};

/// The one format that is written today: the first byte of every record.
pub(super) const FORMAT: u8 = 1;

/// Appends the length of `bytes` and `bytes`. Nothing in a record is near 4 GiB: words have their own
/// limits, and a value has [`super::LONGEST_VALUE`].
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&count(bytes.len()));
    out.extend_from_slice(bytes);
}

/// A length or a count as it stands in a record.
pub(super) fn count(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()
}

/// Appends an origin by its parts.
pub(super) fn put_origin(out: &mut Vec<u8>, origin: &Origin) {
    out.push(u8::from(origin.is_secure()));
    put(out, origin.host().as_bytes());
    out.extend_from_slice(&origin.port().to_be_bytes());
}

/// Appends an instant in seconds, or that there is none.
pub(super) fn put_instant(out: &mut Vec<u8>, at: Option<u64>) {
    out.push(u8::from(at.is_some()));
    out.extend_from_slice(&at.unwrap_or(0).to_be_bytes());
}

/// Appends the names and flags of fields.
pub(super) fn put_fields(out: &mut Vec<u8>, fields: &[FieldSpec]) {
    out.extend_from_slice(&count(fields.len()));
    for field in fields {
        put(out, field.name.as_str().as_bytes());
        out.push(u8::from(field.secret));
    }
}

/// Takes a record apart from its front.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of a record whose first byte must name [`FORMAT`].
    pub(super) fn of_record(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => Ok(Self(rest)),
            Some((&other, _)) => Err(EnvelopeError::UnknownFormat(other)),
            None => Err(EnvelopeError::Damaged("it is empty")),
        }
    }

    /// A reader of bytes without a format of their own.
    pub(super) const fn over(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], EnvelopeError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(EnvelopeError::Damaged("it is cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], EnvelopeError> {
        let (head, rest) =
            self.0.split_first_chunk::<N>().ok_or(EnvelopeError::Damaged("it is cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    /// What stands before the last `N` bytes, and those.
    pub(super) fn rest_and_last<const N: usize>(self) -> Result<(&'a [u8], &'a [u8; N]), EnvelopeError> {
        self.0.split_last_chunk::<N>().ok_or(EnvelopeError::Damaged("it is cut short"))
    }

    /// A byte.
    pub(super) fn byte(&mut self) -> Result<u8, EnvelopeError> {
        self.array::<1>().map(|[byte]| *byte)
    }

    /// A byte that is 0 or 1.
    pub(super) fn flag(&mut self) -> Result<bool, EnvelopeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(EnvelopeError::Damaged("a flag is neither 0 nor 1")),
        }
    }

    /// A number of 32 bits.
    pub(super) fn number(&mut self) -> Result<u32, EnvelopeError> {
        self.array().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// A number of 64 bits.
    pub(super) fn long(&mut self) -> Result<u64, EnvelopeError> {
        self.array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], EnvelopeError> {
        let len = self.number()?;
        self.take(usize::try_from(len).map_err(|_| EnvelopeError::Damaged("it is cut short"))?)
    }

    /// Text behind its length.
    pub(super) fn text(&mut self) -> Result<&'a str, EnvelopeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| EnvelopeError::Damaged("a text is not UTF-8"))
    }

    /// What [`put_origin`] wrote.
    pub(super) fn origin(&mut self) -> Result<Origin, EnvelopeError> {
        let secure = self.flag()?;
        let host = self.text()?;
        let port = u16::from_be_bytes(*self.array()?);
        Origin::new(secure, host, port).map_err(|_| EnvelopeError::Damaged("its origin is none"))
    }

    /// What [`put_instant`] wrote.
    pub(super) fn instant(&mut self) -> Result<Option<u64>, EnvelopeError> {
        let given = self.flag()?;
        let at = self.long()?;
        Ok(given.then_some(at))
    }

    /// What [`put_fields`] wrote. Room is made as fields are found, not as the count promises.
    pub(super) fn fields(&mut self) -> Result<Vec<FieldSpec>, EnvelopeError> {
        let mut fields = Vec::new();
        for _ in 0..self.number()? {
            let name = FieldName::parse(self.text()?)
                .map_err(|_| EnvelopeError::Damaged("a field's name is none"))?;
            fields.push(FieldSpec { name, secret: self.flag()? });
        }
        Ok(fields)
    }

    /// Whether nothing is left over.
    pub(super) const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that nothing is left over.
    pub(super) const fn end(self) -> Result<(), EnvelopeError> {
        if self.0.is_empty() { Ok(()) } else { Err(EnvelopeError::Damaged("it is too long")) }
    }
}
