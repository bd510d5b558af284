//! WebSocket frames as bytes (RFC 6455 section 5.2), made and read for either side.

/// A key of the handshake, and what a server makes of it (RFC 6455 section 1.3).
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// As a server sends it.
pub fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![if fin { 0x80 } else { 0 } | opcode];
    match payload.len() {
        short if short < 126 => bytes.push(short as u8),
        medium if medium < 65536 => {
            bytes.push(126);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// As an app sends it.
pub fn masked(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(fin, opcode, payload);
    let head = bytes.len() - payload.len();
    bytes[1] |= 0x80;
    let mask = [7, 11, 13, 17];
    bytes.splice(head..head, mask);
    bytes.iter_mut().skip(head + 4).enumerate().for_each(|(at, byte)| *byte ^= mask[at % 4]);
    bytes
}

/// Takes one frame off the front, if it is there as a whole; masked ones are unmasked.
pub fn take(buffer: &mut Vec<u8>) -> Option<Frame> {
    let (first, second) = (*buffer.first()?, *buffer.get(1)?);
    let (mut at, length) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().unwrap()))),
        127 => (10, u64::from_be_bytes(buffer.get(2..10)?.try_into().unwrap()) as usize),
        short => (2, usize::from(short)),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        mask = buffer.get(at..at + 4)?.try_into().unwrap();
        at += 4;
    }
    let mut payload = buffer.get(at..at + length)?.to_vec();
    payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= mask[at % 4]);
    buffer.drain(..at + length);
    Some(Frame { fin: first & 0x80 != 0, opcode: first & 0x0f, payload })
}
