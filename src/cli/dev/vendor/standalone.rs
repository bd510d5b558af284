//! The built-in vendor as a process of its own: `relay dev --vendor-only`.
//!
//! For drills and for trying a real `relay run` against something harmless. It may take a credential of
//! your own, from a file. What must never enter: that credential in argv or in any output.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use super::Vendor;
use super::credential::Accepted;
use crate::cli::exit::{Exit, Failure};
use crate::secret::Secret;

/// Serves the vendor until `until` is ready. Writes the CA's certificate (PEM) to `ca_out`, then one
/// line `https://ADDRESS` to `out`: by then it answers. With `credential_file` the strict calls take the
/// credential in it (one line end dropped) instead of the seeded constant. Loopback only.
pub async fn serve_vendor(
    listen: SocketAddr,
    credential_file: Option<&Path>,
    ca_out: &Path,
    out: &mut (dyn Write + Send),
    until: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let accepted = match credential_file {
        Some(file) => Accepted::Other(read_credential(file)?),
        None => Accepted::Demo,
    };
    let vendor = Vendor::start_accepting(listen, accepted, |_| {})
        .await
        .map_err(|cause| Failure::because(&format!("the vendor cannot listen on {listen}"), &cause))?;
    std::fs::write(ca_out, &vendor.ca_pem)
        .map_err(|cause| Failure::because(&format!("{} cannot be written", ca_out.display()), &cause))?;
    writeln!(out, "{}", vendor.origin())
        .and_then(|()| out.flush())
        .map_err(|cause| Failure::because("the address cannot be printed", &cause))?;
    until.await;
    Ok(())
}

fn read_credential(file: &Path) -> Result<Secret, Failure> {
    let mut bytes = std::fs::read(file)
        .map_err(|cause| Failure::because(&format!("{} cannot be read", file.display()), &cause))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    let credential = Secret::new(bytes);
    if credential.is_empty() || !credential.expose().iter().all(u8::is_ascii_graphic) {
        let words = format!("{} holds no credential: visible ASCII, one line", file.display());
        return Err(Failure::new(Exit::Failed, words));
    }
    Ok(credential)
}
