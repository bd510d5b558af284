//! HAProxy that sets the header; with an issuer's key, only for callers with its ES256 token.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::contenders::listening;
use crate::plan::PROXY_CPU;
use crate::process::Process;
use crate::stage::free_ports;
use crate::vendor::Vendor;

/// `issuer` is a folder made by `relay init --local-issuer`.
pub fn start(vendor: &Vendor, issuer: Option<&Path>) -> (Process, SocketAddr, TempDir) {
    let [address] = free_ports();
    let files = TempDir::new().unwrap();
    let checks = issuer.map_or_else(String::new, |issuer| {
        let key = rcgen::KeyPair::from_pem(&fs::read_to_string(issuer.join("issuer.key")).unwrap()).unwrap();
        let pem = files.path().join("issuer.pem");
        fs::write(&pem, key.public_key_pem()).unwrap();
        format!(
            "  http-request set-var(txn.bearer) http_auth_bearer\n\
             \x20 http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')\n\
             \x20 http-request deny deny_status 401 unless {{ var(txn.alg) -m str ES256 }}\n\
             \x20 http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_verify(txn.alg,\"{}\") -m int 1 }}\n",
            pem.display()
        )
    });
    let configuration = format!(
        "global\n  nbthread 1\n  maxconn 1024\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  http-reuse always\n\
         frontend apps\n  bind {address}\n{checks}  http-request set-header Authorization \"{bearer}\"\n  default_backend vendor\n\
         backend vendor\n  server one {vendor} ssl verify required ca-file {ca} verifyhost localhost sni str(localhost) \
         ssl-min-ver TLSv1.3 pool-purge-delay 1h\n",
        bearer = Vendor::bearer(),
        vendor = vendor.address(),
        ca = vendor.ca.display(),
    );
    let file = files.path().join("haproxy.cfg");
    fs::write(&file, configuration).unwrap();
    let mut command = Command::new("taskset");
    let process =
        listening(command.args(["-c", PROXY_CPU, "haproxy", "-db", "-f"]).arg(&file), address, &files);
    (process, address, files)
}
