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
    job::watch(context, &target, &begun).await
}
