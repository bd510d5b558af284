//! `relay init [--dir D] [--local-issuer]`: a first configuration and the keys that it names.
//!
//! Nothing is ever overwritten: everything is checked before anything is written, each file is created
//! exclusively, and what a failed run wrote is taken away again. Secrets are born here in 0600 files and
//! never printed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// The issuer that `--local-issuer` makes: what its tokens say in `iss`.
pub const LOCAL_ISSUER: &str = "urn:relay:local-issuer";

/// Writes the files into `folder`. `write_key` makes `relay.key` (0600, exclusively, synced) and says in
/// words why it could not. What was done goes to `err`, the names of the files to `out`. The exit code:
/// 0 done, 1 nothing was done.
pub fn run(
    folder: &Path,
    local_issuer: bool,
    write_key: impl FnOnce(&Path) -> Result<(), String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let mut written = Vec::new();
    let done = write_all(folder, local_issuer, write_key, &mut written);
    let said = match &done {
        Ok(()) => say(folder, local_issuer, &written, out, err),
        Err(problem) => {
            for path in &written {
                // Only files that this run created; what cannot be removed is named by the next run.
                let _ = std::fs::remove_file(path);
            }
            writeln!(err, "relay init: {problem}; nothing was written")
        }
    };
    u8::from(done.is_err() || said.is_err())
}

fn write_all(
    folder: &Path,
    local_issuer: bool,
    write_key: impl FnOnce(&Path) -> Result<(), String>,
    written: &mut Vec<PathBuf>,
) -> Result<(), String> {
    let at = |error: io::Error| format!("{}: {error}", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at)?;
    let mut names = vec!["relay.toml", "relay.key", "admin.token"];
    // Without a local issuer jwks.json comes from the real one and may be there already.
    if local_issuer {
        names.extend(["issuer.key", "jwks.json"]);
    }
    let there: Vec<&str> =
        names.into_iter().filter(|name| folder.join(name).symlink_metadata().is_ok()).collect();
    if !there.is_empty() {
        return Err(format!("{} already there, and is never overwritten", there.join(", ")));
    }
    let key = folder.join("relay.key");
    write_key(&key).map_err(|problem| format!("relay.key: {problem}"))?;
    written.push(key);
    let mut write = |name: &str, mode: u32, content: &[u8]| {
        create(&folder.join(name), mode, content, written).map_err(|error| format!("{name}: {error}"))
    };
    write("admin.token", 0o600, admin_token()?.as_bytes())?;
    if local_issuer {
        let (key, jwks) = issuer()?;
        write("issuer.key", 0o600, key.as_bytes())?;
        write("jwks.json", 0o644, jwks.as_bytes())?;
    }
    write("relay.toml", 0o644, configuration(local_issuer).as_bytes())?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at)
}

/// A new file with this content, on the disk when this returns.
fn create(path: &Path, mode: u32, content: &[u8], written: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    written.push(path.to_owned());
    file.write_all(content)?;
    file.sync_all()
}

/// 32 random bytes as base64url, and a newline.
fn admin_token() -> Result<Zeroizing<String>, String> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    rand::fill(bytes.as_mut()).map_err(|_| "no randomness".to_owned())?;
    let mut token = Zeroizing::new(String::with_capacity(64));
    URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut token);
    token.push('\n');
    Ok(token)
}

/// An ES256 key as PKCS#8 PEM (RFC 7468 section 10), and a JWKS document with its public half.
fn issuer() -> Result<(Zeroizing<String>, String), String> {
    let failed = "the issuer's key could not be made".to_owned();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document =
        EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(|_| failed.clone())?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).map_err(|_| failed.clone())?;
    // An uncompressed point (SEC 1 section 2.3.3): 4, then 32 bytes each of x and y.
    let point = pair.public_key().as_ref();
    let (Some(x), Some(y), 65) = (point.get(1..33), point.get(33..65), point.len()) else {
        return Err(failed);
    };
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    // RFC 7638 section 3: the key's thumbprint names it.
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    let kid = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
    let jwks = format!(
        "{{\"keys\":[{{\"kty\":\"EC\",\"crv\":\"P-256\",\"alg\":\"ES256\",\"use\":\"sig\",\"kid\":\"{kid}\",\"x\":\"{x}\",\"y\":\"{y}\"}}]}}\n"
    );
    Ok((pem(document.as_ref()), jwks))
}

fn pem(der: &[u8]) -> Zeroizing<String> {
    let mut base64 = Zeroizing::new(String::with_capacity(der.len() * 2));
    STANDARD.encode_string(der, &mut base64);
    let mut text = Zeroizing::new(String::with_capacity(der.len() * 2 + 128));
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    for (at, c) in base64.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text.push_str("\n-----END PRIVATE KEY-----\n");
    text
}

fn configuration(local_issuer: bool) -> String {
    let (comment, issuer) = if local_issuer {
        (
            "# The issuer is local: whoever holds issuer.key is every customer. For trying out only.\n",
            LOCAL_ISSUER,
        )
    } else {
        (
            "# Save your issuer's JWKS document beside this file as jwks.json, and write its exact iss.\n",
            "https://auth.saas.example",
        )
    };
    format!(
        r#"# relay's configuration. `relay check` judges it. Paths are relative to this file.

[server]
listen       = "127.0.0.1:8480"    # the app talks here
admin_listen = "127.0.0.1:8481"    # API, health, metrics; keep it on loopback

# Who may call, and for which customer.
{comment}[callers]
jwks       = "file:jwks.json"
issuer     = "{issuer}"
audience   = "relay"
algorithms = ["ES256"]
customer   = "customer_id"         # the claim that names the customer

[keys]
provider = "local"
file     = "relay.key"             # keep a copy elsewhere: without it no secret ever opens again

[store]
engine = "sled"
path   = "relay.db"

[audit]
path       = "audit.jsonl"
durability = "written"             # "synced" survives power loss too

[admin]
token = "file:admin.token"

# One table per third-party API. The app calls http://127.0.0.1:8480/github/...
[integrations.github]
upstream = "https://api.github.com"
inject   = [{{ header = "authorization", value = "Bearer {{token}}" }}]
"#
    )
}

fn say(
    folder: &Path,
    local_issuer: bool,
    written: &[PathBuf],
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<()> {
    for path in written {
        writeln!(out, "{}", path.display())?;
    }
    let file = folder.join("relay.toml");
    let file = file.display();
    writeln!(err, "Next:")?;
    if local_issuer {
        writeln!(err, "  issuer.key makes tokens for any customer: its holder is every customer.")?;
    } else {
        writeln!(err, "  save your issuer's JWKS document as {}", folder.join("jwks.json").display())?;
        writeln!(err, "  write its iss into [callers] issuer of {file}")?;
    }
    writeln!(err, "  keep a copy of relay.key in a safe place: without it no secret ever opens again")?;
    writeln!(err, "  relay check {file}")?;
    writeln!(err, "  relay run --config {file}")
}
