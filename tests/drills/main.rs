//! The long measurements behind `tests/drill NAME [--full]`.
fn main() {}
