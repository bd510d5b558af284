//! Vendors that compress and apps that unpack, by encoders and decoders of their own.

use std::io::{Read, Write};

use flate2::Compression;

/// A content coding as a vendor may use it; `RawDeflate` calls itself `deflate` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Identity,
    Gzip,
    Deflate,
    RawDeflate,
    Brotli,
    Zstd,
}

pub const ALL: [Packing; 6] =
    [Packing::Identity, Packing::Gzip, Packing::Deflate, Packing::RawDeflate, Packing::Brotli, Packing::Zstd];

impl Packing {
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate | Self::RawDeflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// `parts` as one compressed body, flushed behind each part: what was written by then.
    pub fn pack(self, parts: &[&[u8]]) -> Vec<Vec<u8>> {
        match self {
            Self::Identity => parts.iter().map(|part| part.to_vec()).collect(),
            Self::Gzip => flushed(
                flate2::write::GzEncoder::new(Vec::new(), Compression::default()),
                parts,
                |e| e.get_ref().clone(),
                |e| e.finish().unwrap(),
            ),
            Self::Deflate => flushed(
                flate2::write::ZlibEncoder::new(Vec::new(), Compression::default()),
                parts,
                |e| e.get_ref().clone(),
                |e| e.finish().unwrap(),
            ),
            Self::RawDeflate => flushed(
                flate2::write::DeflateEncoder::new(Vec::new(), Compression::default()),
                parts,
                |e| e.get_ref().clone(),
                |e| e.finish().unwrap(),
            ),
            Self::Brotli => {
                let encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 20);
                flushed(encoder, parts, |e| e.get_ref().clone(), brotli::CompressorWriter::into_inner)
            }
            Self::Zstd => zstd(parts),
        }
    }

    pub fn whole(self, text: &[u8]) -> Vec<u8> {
        self.pack(&[text]).concat()
    }

    /// What an app makes of as much of a body as it got.
    pub fn unpack(self, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Identity => return body.to_vec(),
            Self::Gzip => drop(read(flate2::read::MultiGzDecoder::new(body), &mut out)),
            Self::Deflate => drop(read(flate2::read::ZlibDecoder::new(body), &mut out)),
            Self::RawDeflate => drop(read(flate2::read::DeflateDecoder::new(body), &mut out)),
            Self::Brotli => drop(read(brotli::Decompressor::new(body, 4096), &mut out)),
            Self::Zstd => {
                let mut context = zstd_safe::DCtx::create();
                let mut input = zstd_safe::InBuffer::around(body);
                let mut piece = vec![0; 65536];
                loop {
                    let mut output = zstd_safe::OutBuffer::around(piece.as_mut_slice());
                    let done = context.decompress_stream(&mut output, &mut input);
                    let given = output.pos();
                    out.extend_from_slice(&piece[..given]);
                    if done.is_err() || (given < piece.len() && input.pos == body.len()) {
                        break;
                    }
                }
            }
        }
        out
    }
}

/// Reads one byte at a time, so that nothing is lost when the data break off.
fn read(mut from: impl Read, out: &mut Vec<u8>) -> std::io::Result<()> {
    let mut piece = [0; 1024];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            n => out.extend_from_slice(&piece[..n]),
        }
    }
}

fn flushed<E: Write>(
    mut encoder: E,
    parts: &[&[u8]],
    so_far: impl Fn(&E) -> Vec<u8>,
    finish: impl Fn(E) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let (mut pieces, mut length) = (Vec::new(), 0);
    let (last, others) = parts.split_last().unwrap();
    for part in others {
        encoder.write_all(part).unwrap();
        encoder.flush().unwrap();
        let all = so_far(&encoder);
        pieces.push(all[length..].to_vec());
        length = all.len();
    }
    encoder.write_all(last).unwrap();
    pieces.push(finish(encoder)[length..].to_vec());
    pieces
}

fn zstd(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    use zstd_safe::zstd_sys::ZSTD_EndDirective::{ZSTD_e_end, ZSTD_e_flush};
    let mut context = zstd_safe::CCtx::create();
    let last = parts.len() - 1;
    let parts = parts.iter().enumerate();
    parts
        .map(|(number, part)| {
            let mut input = zstd_safe::InBuffer::around(part);
            let (mut out, mut piece) = (Vec::new(), vec![0; 65536]);
            let end = if number == last { ZSTD_e_end } else { ZSTD_e_flush };
            loop {
                let mut output = zstd_safe::OutBuffer::around(piece.as_mut_slice());
                let left = context.compress_stream2(&mut output, &mut input, end).unwrap();
                let given = output.pos();
                out.extend_from_slice(&piece[..given]);
                if left == 0 {
                    return out;
                }
            }
        })
        .collect()
}
