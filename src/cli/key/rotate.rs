//! `relay key rotate`: begins the job and watches it.

use http::Method;
use serde_json::json;

use super::super::exit::Failure;
use super::super::target::{Target, Which};
use super::super::{Context, job};

pub(super) async fn run(
    context: &mut Context,
    data: bool,
    new_version: bool,
    which: &Which,
) -> Result<(), Failure> {
    let target = Target::find(context, which)?;
    let body = json!({ "data": data, "new_version": new_version }).to_string();
    let begun = target.call(Method::POST, "/v1/keys/rotate", Some(body.into_bytes())).await?;
    // A new version is asked for by the one that begins.
    let same = match (data, new_version) {
        (true, _) => Some("data"),
        (false, false) => Some("rewrap"),
        (false, true) => None,
    };
    job::watch(context, &target, &begun, same).await?;
    if new_version {
        context.say("where the KMS key is a file, it has a new line: keep a copy of it, as of the first");
    }
    Ok(())
}
