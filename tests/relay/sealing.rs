//! Sealed rows open for what they were sealed for, and for nothing else.
//!
//! `records` holds the two formats to fixed bytes and to every single-bit change, `keys` the key file and
//! the calls for data keys, `cache` how long these are at hand, `writing` the operators' write path, `rotation` the
//! jobs that seal and wrap anew, `matrix` a writer to the store under a running relay, `vectors` the ciphers
//! themselves. Fixed bytes were made by another implementation.

mod cache;
mod keys;
mod matrix;
mod records;
mod rotation;
mod tokens;
mod vectors;
mod writing;

use relay::model::{Customer, FieldName, FieldSpec};
use relay::secret::{Field, Secret};

fn customer(text: &str) -> Customer {
    Customer::parse(text).unwrap()
}

fn spec(name: &str, secret: bool) -> FieldSpec {
    FieldSpec { name: FieldName::parse(name).unwrap(), secret }
}

fn field(name: &str, secret: bool, value: &[u8]) -> Field {
    Field { spec: spec(name, secret), value: Secret::new(value.to_vec()) }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair.iter().fold(0, |sum, d| sum * 16 + d)).unwrap()).collect()
}

/// Every record that differs from `record` in one bit, and every one that is cut short or longer by a byte.
fn damaged(record: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    let flipped = (0..record.len() * 8).map(|bit| {
        let mut other = record.to_vec();
        *other.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
        (format!("bit {bit} flipped"), other)
    });
    let cut =
        (0..record.len()).map(|len| (format!("cut to {len}"), record.iter().take(len).copied().collect()));
    let longer = std::iter::once(("a byte longer".to_owned(), [record, &[0]].concat()));
    flipped.chain(cut).chain(longer)
}
