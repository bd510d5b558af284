//! The vendor that all of them call: nginx over TLS 1.3, one cipher suite, connections kept.
//!
//! It answers 401 to whoever does not bring the credential, so a proxy that does not inject it fails every
//! request.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::load::h2load;
use crate::nginx::{Nginx, certificates};
use crate::plan::OTHER_CPU;

pub const CREDENTIAL: &str = "sk-bench-0123456789abcdef0123456789abcdef";

pub struct Vendor {
    pub nginx: Nginx,
    /// The CA's certificate.
    pub ca: PathBuf,
}

impl Vendor {
    pub fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let ca = certificates(folder.path());
        let www = folder.path().join("www");
        fs::create_dir(&www).unwrap();
        fs::write(www.join("64k"), json(64 * 1024)).unwrap();
        fs::write(www.join("10m"), json(10 * 1024 * 1024)).unwrap();
        fs::write(www.join("answer"), json(1024)).unwrap();
        // A file may not be posted to, and must be there to be refused as that.
        fs::write(www.join("sink"), "").unwrap();
        let vendor = Self { nginx: Nginx::start(OTHER_CPU, folder, &server()), ca };
        vendor.prove_refusal();
        vendor
    }

    pub fn address(&self) -> SocketAddr {
        self.nginx.address
    }

    pub fn bearer() -> String {
        format!("Bearer {CREDENTIAL}")
    }

    /// The check behind every figure can fail.
    fn prove_refusal(&self) {
        let (right, once) = (Self::bearer(), ["-n", "1", "-c", "1"]);
        for (path, body) in
            [("1k", false), ("64k", false), ("10m", false), ("sink", true), ("many/0001", false)]
        {
            let url = format!("https://{}/{path}", self.address());
            let posted = self.ca.display().to_string();
            let how: Vec<&str> = if body { [&once[..], &["-d", &posted]].concat() } else { once.to_vec() };
            let ask =
                |authorization: &str| h2load(&[], &how, &url, &[("authorization", authorization)]).succeeded;
            assert_eq!(ask("Bearer another"), 0, "the vendor answers /{path} without the credential");
            let right =
                if path == "many/0001" { format!("Bearer {}", credential_of(1)) } else { right.clone() };
            assert_eq!(ask(&right), 1, "the vendor does not answer /{path}");
        }
    }
}

/// The credential that `/many/NNNN` wants.
pub fn credential_of(number: usize) -> String {
    format!("sk-many-{number:04}-0123456789abcdef01234567")
}

fn server() -> String {
    let mut text = String::from(
        "server { listen ADDRESS ssl backlog=1024; ssl_certificate leaf.pem; ssl_certificate_key key.pem;\n\
         ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;\n\
         keepalive_requests 1000000000; keepalive_timeout 1h; default_type application/json;\n\
         client_body_buffer_size 64k; root www; open_file_cache max=10;\n",
    );
    let one = |location: &str, credential: &str, then: &str| {
        format!(
            "location {location} {{ if ($http_authorization != 'Bearer {credential}') {{ return 401; }} {then} }}\n"
        )
    };
    let answer = format!("return 200 '{}';", json(1024));
    text += &one("= /1k", CREDENTIAL, &answer);
    text += &one("= /64k", CREDENTIAL, "");
    text += &one("= /10m", CREDENTIAL, "");
    let many = credential_of(0).replace("0000", "$1");
    text += &one("~ ^/many/([0-9]+)$", &many, &answer);
    // `mirror` reads the whole body before the answer; `return` alone would answer at once.
    text += &one("= /sink", CREDENTIAL, "mirror /read; error_page 405 =200 /answer;");
    let _ =
        writeln!(text, "location = /read {{ internal; return 204; }} location = /answer {{ internal; }} }}");
    text
}

/// JSON, as vendors answer, of exactly `length` bytes.
pub fn json(length: usize) -> String {
    let item = "{\"id\":\"T00000001\",\"name\":\"an item of a list\",\"done\":false},\n";
    let text = format!("[{}{{}}]", item.repeat((length - 4) / item.len()));
    format!("{text}{}", " ".repeat(length - text.len()))
}
