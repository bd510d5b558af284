//! Within step 7: a signature over the request as it goes out.
//!
//! Called by `inject` when everything else in the request stands, so that nothing changes behind it. The secret
//! key never enters the request; what does is computed from it. What must never enter: the app's own signature,
//! a region or a service that the app chose, a body that still streams but has to be signed.

mod aws;
mod canonical;
mod hmac;

use bytes::Bytes;
use http::Request;

use crate::clock::Moment;
use crate::config::signing::Signing;
use crate::envelope::check_value;
use crate::model::FieldName;
use crate::net::body::Outgoing;
use crate::refusal::{Code, Refusal};
use crate::stage::unseal::Credential;
use crate::stage::wiped::header_value;

/// Signs `request` as of `at`, by relay's own clock.
///
/// # Errors
/// `credential_unusable` if a field is missing or not what the signature needs; `request_unsignable` if the
/// body is not there.
pub fn sign(
    signing: &Signing,
    credential: &Credential,
    request: &mut Request<Outgoing>,
    at: Moment,
) -> Result<(), Refusal> {
    match signing {
        Signing::Aws(aws) => aws::sign(aws, credential, request, at),
        Signing::Hmac(recipe) => hmac::sign(recipe, credential, request, at),
    }
}

/// A field's value as it stands in the record.
fn field<'a>(credential: &'a Credential, name: &FieldName) -> Result<&'a [u8], Refusal> {
    let Some(value) = credential.value(name) else {
        let detail =
            format!("The stored credential has no field {:?}: add a version that has it.", name.as_str());
        return Err(Refusal::new(Code::CredentialUnusable, detail));
    };
    check_value(value.expose()).map_err(|why| unusable(name, &why.to_string()))?;
    Ok(value.expose())
}

fn unusable(name: &FieldName, why: &str) -> Refusal {
    let detail = format!("Nothing can be signed with the stored credential's field {:?}.", name.as_str());
    Refusal::new(Code::CredentialUnusable, detail).because(why.to_owned())
}

/// The body, which authorize has asked to be collected where it is signed.
fn body(request: &Request<Outgoing>) -> Result<&Bytes, Refusal> {
    let streams = || Refusal::from(Code::RequestUnsignable).because("a body that is signed still streams");
    request.body().collected().ok_or_else(streams)
}
