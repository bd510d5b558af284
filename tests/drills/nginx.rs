//! nginx as one process in the foreground: as vendor over TLS, and as the proxy to compare with.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::Process;
use crate::stage::free_ports;

pub struct Nginx {
    pub address: SocketAddr,
    pub process: Process,
    _folder: TempDir,
}

/// A vendor over TLS 1.3 that answers everything with `body`.
pub struct NginxVendor {
    pub nginx: Nginx,
    /// The CA's certificate.
    pub ca: PathBuf,
}

impl NginxVendor {
    pub fn start(cpu: &str, body: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let ca = certificates(folder.path());
        let server = format!(
            "server {{ listen ADDRESS ssl; ssl_certificate leaf.pem; ssl_certificate_key key.pem;\n\
             ssl_protocols TLSv1.3; keepalive_requests 1000000000; default_type application/json;\n\
             location / {{ return 200 '{body}'; }} }}"
        );
        Self { nginx: Nginx::start(cpu, folder, &server), ca }
    }
}

impl Nginx {
    /// A proxy that does nothing but set the header, to a vendor it knows by address and verifies by `ca`.
    pub fn proxy(cpu: &str, vendor: SocketAddr, ca: &Path, authorization: &str) -> Self {
        let server = format!(
            "upstream vendor {{ server {vendor}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h; }}\n\
             server {{ listen ADDRESS; keepalive_requests 1000000000; location / {{\n\
             proxy_pass https://vendor; proxy_http_version 1.1; proxy_set_header Connection '';\n\
             proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on; proxy_buffering on;\n\
             proxy_ssl_verify on; proxy_ssl_trusted_certificate {}; proxy_ssl_name localhost;\n\
             proxy_ssl_server_name on; proxy_max_temp_file_size 0; proxy_buffer_size 32k; proxy_buffers 8 64k; client_body_buffer_size 64k;\n\
             proxy_set_header Authorization '{authorization}'; }} }}",
            ca.display()
        );
        Self::start(cpu, TempDir::new().unwrap(), &server)
    }

    /// `server` has ADDRESS where it listens.
    pub fn start(cpu: &str, folder: TempDir, server: &str) -> Self {
        let [address] = free_ports();
        let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};"))
            .concat();
        let configuration = format!(
            "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr error;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; tcp_nodelay on; {places}\n{} }}\n",
            server.replace("ADDRESS", &address.to_string())
        );
        // Paths in it are relative to its own folder.
        std::fs::write(folder.path().join("nginx.conf"), configuration).unwrap();
        let mut command = Command::new("taskset");
        command.args(["-c", cpu, "nginx", "-c", "nginx.conf", "-e", "stderr", "-p"]).arg(folder.path());
        let mut process = Process::start(command.stdin(Stdio::null()));
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(!process.has_ended(), "nginx does not start");
            assert!(begun.elapsed() < Duration::from_secs(10), "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { address, process, _folder: folder }
    }
}

/// Writes leaf.pem and key.pem for `localhost` into `folder`; the CA's file is returned.
pub fn certificates(folder: &Path) -> PathBuf {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    // OpenSSL takes a leaf for self-signed that has its issuer's name.
    ca.distinguished_name.push(rcgen::DnType::CommonName, "the vendor's CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let path = folder.join("ca.pem");
    std::fs::write(&path, ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("leaf.pem"), leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    path
}
