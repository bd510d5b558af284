//! `relay store migrate`: the schema in PostgreSQL, by its owner.
//!
//! Asks for nothing that serving needs but `[store]`: an owner's machine may have no KMS key.

use std::path::Path;

use crate::cli::Context;
use crate::cli::exit::Failure;

/// Migrates.
///
/// # Errors
/// An invalid configuration, another engine; whatever PostgreSQL says.
#[cfg(feature = "postgres")]
pub(super) async fn run(
    context: &mut Context,
    file: &Path,
    serving_role: Option<&str>,
) -> Result<(), Failure> {
    use serde_json::json;

    use crate::app::providers::{postgres_roots, postgres_setup};
    use crate::cli::Format;
    use crate::cli::exit::Exit;
    use crate::config::{self, StoreChoice};
    use crate::store::postgres::{VERSION, migrate};

    let (choice, report) = config::store_file(file, &context.environment);
    let Some(choice) = choice else { return Err(context.invalid(&report)) };
    let StoreChoice::Postgres(choice) = choice else {
        let why = "[store] engine is not postgres, and no other engine has a schema to migrate";
        return Err(Failure::new(Exit::Usage, why));
    };
    let roots = postgres_roots(&choice).map_err(Failure::failed)?;
    let done = migrate(postgres_setup(&choice, roots.as_deref()), serving_role).await;
    let done = done.map_err(Failure::failed)?;
    if context.format == Format::Json {
        let told = json!({ "from": done.from, "to": done.to, "serving_role": done.serving_role });
        return context.json(&told);
    }
    match done.from {
        VERSION => context.line(&format!("the schema is up to date: version {VERSION}"))?,
        0 => context.line(&format!("the schema was made: version {}", done.to))?,
        from => context.line(&format!("the schema was brought from version {from} to {}", done.to))?,
    }
    match done.serving_role {
        Some(role) => context.line(&format!("the role {role} may do what serving needs, and nothing more")),
        None => Ok(()),
    }
}

/// Says that this relay was built without PostgreSQL.
#[cfg(not(feature = "postgres"))]
pub(super) async fn run(_: &mut Context, _: &Path, _: Option<&str>) -> Result<(), Failure> {
    Err(Failure::failed("this relay was built without postgres: build it with --features postgres, or full"))
}
