//! The front door: parse the command line, run it, return its exit code.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use zeroizing_alloc::ZeroAlloc;

// Libraries copy a request's head into buffers of their own (hyper's, rustls'); whatever is freed is wiped.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    // The one place where the environment is read; everyone else is handed it.
    #[allow(clippy::disallowed_methods)]
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    ExitCode::from(relay::cli::main(environment))
}
