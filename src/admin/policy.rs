//! `/v1/secrets/{id}/policy`: a secret's own limits, given as a whole.
//!
//! What must never enter: a body that could be read as no limits by mistake.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::Admin;
use super::door::{Denied, json, parsed};
use super::trace::About;
use crate::model::Policy;
use crate::seal::Summary;

/// Limits as they arrive: an object. A list of nothing would be read as an object without members otherwise.
#[derive(Default)]
pub(super) struct Limits(pub(super) Policy);

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Limits;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Limits, A::Error> {
                Policy::deserialize(MapAccessDeserializer::new(map)).map(Limits)
            }
        }
        from.deserialize_map(Object)
    }
}

/// Puts these limits in the place of those that the secret has: what is not said is not limited any more.
pub(super) async fn set(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Summary>, Denied> {
    admin.takes_new()?;
    let id = parsed(&id)?;
    let Limits(policy) = json(body).await?;
    let trace = admin.begin("secret.policy", &About::secret(id)).await?;
    Ok(Json(admin.finish(trace, admin.sealer.set_policy(id, policy).await).await?))
}
