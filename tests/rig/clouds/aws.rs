//! AWS KMS, as far as relay and its tests use it.

use super::{Asked, Cloud, Fake, Told, Trouble};

/// A fake of one region's AWS KMS with two keys.
pub fn start() -> Fake {
    Fake::start(Aws, None)
}

struct Aws;

impl Cloud for Aws {
    fn operation(&self, asked: &Asked) -> String {
        asked.header("x-amz-target").trim_start_matches("TrentService.").to_owned()
    }

    fn answer(&self, _asked: &Asked, _trouble: Trouble) -> Told {
        Told { status: 501, headers: Vec::new(), body: Vec::new() }
    }
}
