//! CRC32C (Castagnoli, RFC 3720 appendix B.4), which Google Cloud KMS and its clients check each other by.
//!
//! Bit by bit, since a table would be looked up by a key's bytes, and a data key is 32 bytes long. It finds
//! damage on the way, not malice. What must never enter: a decision about what is damaged.

/// The checksum of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn the_published_vectors_hold() {
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
    }
}
