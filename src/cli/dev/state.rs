//! `dev.json`: how other commands find the running `relay dev`.
//!
//! It holds a caller token, the admin token and the issuer's key, so it stands 0600 in a 0700 folder of
//! this user; a folder that anyone else could write to is refused, because whoever can put a file there
//! can have a shell `eval` it and an app send its token elsewhere. What must never enter: a credential.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::settings::{CUSTOMER_CLAIM, SECRET_CLAIM};
use crate::cli::exit::{Exit, Failure};
use crate::cli::token::{self, Order, Signer, TokenError};
use crate::clock;
use crate::secret::Secret;

const FILE: &str = "dev.json";

/// The folder in which `dev.json` stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    folder: PathBuf,
}

impl Whereabouts {
    /// `$RELAY_DEV_DIR`, else `$XDG_RUNTIME_DIR/relay`, else `TMP/relay-UID`. `lookup` is the
    /// environment, `temporary` the system's folder for temporary files.
    pub fn find(lookup: impl Fn(&str) -> Option<OsString>, temporary: &Path) -> Self {
        let set = |name| lookup(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
        let folder = set("RELAY_DEV_DIR")
            .or_else(|| set("XDG_RUNTIME_DIR").filter(|dir| dir.is_absolute()).map(|dir| dir.join("relay")))
            .unwrap_or_else(|| temporary.join(format!("relay-{}", own_uid())));
        Self { folder }
    }

    /// This very folder.
    pub const fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where `dev.json` is.
    pub fn file(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Makes the folder, 0700, if it is not there, and judges it.
    fn prepare(&self) -> Result<(), Failure> {
        match DirBuilder::new().recursive(true).mode(0o700).create(&self.folder) {
            Ok(()) => self.judge(),
            Err(cause) => Err(Failure::because(&format!("{} cannot be made", self.folder.display()), &cause)),
        }
    }

    /// Refuses a folder that is a link, another user's, or open to others.
    fn judge(&self) -> Result<(), Failure> {
        let shown = self.folder.display();
        let found = fs::symlink_metadata(&self.folder)
            .map_err(|cause| Failure::because(&format!("{shown} cannot be looked at"), &cause))?;
        let fault = if !found.is_dir() {
            "is no folder"
        } else if found.uid() != own_uid() {
            "belongs to another user"
        } else if found.mode() & 0o077 != 0 {
            "can be entered by others; `chmod 700` it"
        } else {
            return Ok(());
        };
        Err(Failure::new(
            Exit::Failed,
            format!("{shown} {fault}, so relay neither reads nor writes dev.json there"),
        ))
    }
}

/// What `dev.json` says of the running dev relay.
#[derive(Serialize, Deserialize)]
pub struct DevRelay {
    /// Where the app talks to it: `http://127.0.0.1:8480`.
    pub url: String,
    /// Where operators do: `http://127.0.0.1:8481`.
    pub admin: String,
    /// The admin API's bearer token.
    pub admin_token: String,
    /// The customer that the token names.
    pub customer: String,
    /// The seeded secret's UUID.
    pub secret: String,
    /// The minted caller token.
    pub token: String,
    /// The built-in vendor's origin.
    pub vendor: String,
    /// The process.
    pub pid: u32,
    /// `iss` of its tokens.
    pub issuer: String,
    /// `aud` of its tokens.
    pub audience: String,
    /// The key's id.
    pub kid: String,
    /// The key that its tokens are signed with, PKCS#8 PEM: for `relay token mint`.
    pub issuer_key: String,
}

impl DevRelay {
    /// The dev relay that runs, if it does: its process lives and its port answers.
    /// [`Exit::Unreachable`] if not.
    pub fn running(whereabouts: &Whereabouts) -> Result<Self, Failure> {
        let none = |why: &str| {
            Failure::new(Exit::Unreachable, format!("no dev relay runs ({why}); start one with `relay dev`"))
        };
        let file = whereabouts.file();
        match fs::symlink_metadata(&file) {
            Ok(_) => whereabouts.judge()?,
            Err(_) => return Err(none(&format!("there is no {}", file.display()))),
        }
        let mut text = fs::read(&file).map_err(|cause| none(&format!("{}: {cause}", file.display())))?;
        let read: Result<Self, _> = serde_json::from_slice(&text);
        text.zeroize();
        // serde_json's own words may quote the file, which holds keys.
        let relay = read.map_err(|_| none(&format!("{} is not what relay wrote", file.display())))?;
        if relay.is_alive() {
            Ok(relay)
        } else {
            Err(none(&format!("process {} of {} is gone", relay.pid, file.display())))
        }
    }

    /// Refuses to go on while another process's dev relay is found here and runs.
    pub fn none_but(pid: u32, whereabouts: &Whereabouts) -> Result<(), Failure> {
        whereabouts.prepare()?;
        match Self::running(whereabouts) {
            Ok(other) if other.pid != pid => Err(Failure::new(
                Exit::Failed,
                format!(
                    "a dev relay runs already (process {}, {}); stop it, or set RELAY_DEV_DIR to another folder",
                    other.pid, other.url
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Mints a caller token with this relay's own key, for `relay token mint`.
    pub fn mint(&self, order: &Order<'_>) -> Result<String, TokenError> {
        let key = Secret::new(self.issuer_key.clone().into_bytes());
        let signer = Signer {
            key: &key,
            kid: Some(&self.kid),
            issuer: &self.issuer,
            audience: &self.audience,
            customer_claim: CUSTOMER_CLAIM,
            secret_claim: SECRET_CLAIM,
        };
        token::mint(&signer, order, clock::unix_seconds())
    }

    /// Writes `dev.json`, whole or not at all. Refused while another dev relay that is found there runs.
    pub fn publish(&self, whereabouts: &Whereabouts) -> Result<Published, Failure> {
        Self::none_but(self.pid, whereabouts)?;
        let file = whereabouts.file();
        let failed = |cause: std::io::Error| {
            Failure::because(&format!("{} cannot be written", file.display()), &cause)
        };
        let text = Secret::new(serde_json::to_vec_pretty(self).map_err(|cause| failed(cause.into()))?);
        let fresh = file.with_extension(format!("json.{}", self.pid));
        remove(&fresh).map_err(failed)?;
        // A new file of our own under 0600, then renamed: nobody ever reads half of it, or through a link.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut opened| opened.write_all(text.expose()))
            .and_then(|()| fs::rename(&fresh, &file))
            .map_err(failed)?;
        Ok(Published { file, pid: self.pid })
    }

    fn is_alive(&self) -> bool {
        // Both, because a pid is given out again, and so is a port: the token must not go to a stranger.
        lives(self.pid) && answers(&self.url)
    }
}

impl Drop for DevRelay {
    fn drop(&mut self) {
        self.admin_token.zeroize();
        self.token.zeroize();
        self.issuer_key.zeroize();
    }
}

/// `dev.json` as long as this lives.
#[derive(Debug)]
pub struct Published {
    file: PathBuf,
    pid: u32,
}

impl Drop for Published {
    fn drop(&mut self) {
        #[derive(Deserialize)]
        struct Owner {
            pid: u32,
        }
        // Another dev relay may have taken the place meanwhile; its file stays. A file that cannot be
        // removed is stale, and found to be so by its pid.
        let owner = fs::read(&self.file).ok().and_then(|text| serde_json::from_slice::<Owner>(&text).ok());
        if owner.is_some_and(|owner| owner.pid == self.pid) {
            drop(remove(&self.file));
        }
    }
}

fn remove(file: &Path) -> std::io::Result<()> {
    match fs::remove_file(file) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

fn lives(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    // EPERM means that it lives and is not ours.
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

fn answers(url: &str) -> bool {
    let address = url.strip_prefix("http://").and_then(|rest| rest.parse::<SocketAddr>().ok());
    address.is_some_and(|to| {
        to.ip().is_loopback() && TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok()
    })
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
