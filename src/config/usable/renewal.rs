//! `oauth2` and `login`: by what an access token is had, and where.
//!
//! The endpoint is fixed here, like an upstream. Who asks and with what is written as text with fields in it, or
//! as `env:` and `file:` for what is the operator's own; [`material`](super::material) reads each.

use std::time::Duration;

use super::super::FieldSetting;
use super::super::renewal::{
    ACCESS_TOKEN, Assertion, Client, ClientAuth, Encoding, Grant, Material, Pointers, Renewal, Signing,
};
use super::super::report::Place;
use super::super::template::Template;
use super::super::written::{Given, Table, Written};
use super::material::{Around, Reader};
use super::upstream;
use crate::model::{FieldName, FieldSpec, Origin};

type Fields = [(FieldSetting, Place)];

/// Where tokens are asked for.
struct Endpoint {
    origin: Origin,
    path: Template,
    below_upstream: bool,
}

const HOUR: Duration = Duration::from_secs(3600);
const LIFETIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(31_536_000);

/// The fields of an integration that declares none, by how it has its tokens.
pub(super) fn default_fields(integration: &Table<'_>) -> Option<Vec<(FieldSetting, Place)>> {
    let grant = integration.entry("oauth2")?.get_ref().get("grant")?.get_ref().as_str()?;
    let names: &[(&str, &str, bool)] = match grant {
        "refresh_token" => &[("refresh_token", "Refresh token", true)],
        "client_credentials" => {
            &[("client_id", "Client id", false), ("client_secret", "Client secret", true)]
        }
        _ => return None,
    };
    let field = |(name, label, secret): &(&str, &str, bool)| {
        let spec = FieldSpec { name: FieldName::parse(name).ok()?, secret: *secret };
        Some((setting(spec, label), integration.place.clone()))
    };
    // The operator's own client needs no field.
    let own =
        |name: &str| integration.entry("oauth2").is_some_and(|oauth| oauth.get_ref().get(name).is_some());
    names.iter().filter(|(name, ..)| !own(name)).map(field).collect()
}

/// The access token as templates of `inject` see it.
pub(super) fn access_token(integration: &Table<'_>) -> Option<(FieldSetting, Place)> {
    let name = ["oauth2", "login"].into_iter().find(|name| integration.entry(name).is_some())?;
    let spec = FieldSpec { name: FieldName::parse(ACCESS_TOKEN).ok()?, secret: true };
    Some((setting(spec, "Access token"), integration.place_of(name)))
}

fn setting(spec: FieldSpec, label: &str) -> FieldSetting {
    FieldSetting {
        spec,
        label: label.to_owned(),
        help: None,
        example: None,
        scrub_off_danger: false,
        optional: false,
        pem: false,
        pattern: None,
    }
}

/// Reads `oauth2` or `login`, and the fields that it uses.
pub(super) fn renewal(
    written: &mut Written<'_>,
    integration: &Table<'_>,
    fields: &Fields,
    around: &Around<'_>,
) -> (Option<Renewal>, Vec<FieldName>) {
    let mut used = Vec::new();
    let oauth = written.child(integration, "oauth2", "integrations.*.oauth2");
    let login = written.child(integration, "login", "integrations.*.login");
    let mut reader = Reader { written, fields, used: &mut used };
    reader.refuse_taken_name(integration);
    let read = match (oauth.exists(), login.exists()) {
        (true, true) => {
            let message = format!("{} has both oauth2 and login", integration.shown);
            let fix = "keep the one by which its access tokens are had";
            reader.written.findings.error(&integration.place_of("login"), message, fix);
            None
        }
        (true, false) => reader.oauth2(&oauth, around),
        (false, true) => super::login::login(&mut reader, &login, around),
        (false, false) => None,
    };
    (read, used)
}

impl Reader<'_, '_, '_> {
    fn refuse_taken_name(&mut self, integration: &Table<'_>) {
        if access_token(integration).is_none() {
            return;
        }
        if let Some((_, place)) =
            self.fields.iter().find(|(field, _)| field.spec.name.as_str() == ACCESS_TOKEN)
        {
            let message = "the field \"access_token\" is what oauth2 and login put there themselves";
            self.written.findings.error(place, message, "give the secret's own field another name");
        }
    }

    fn oauth2(&mut self, table: &Table<'_>, around: &Around<'_>) -> Option<Renewal> {
        const GRANTS: &[(&str, usize)] =
            &[("refresh_token", 0), ("client_credentials", 1), ("jwt_bearer", 2)];
        if self.written.absent(table, "grant") {
            self.written.missing(table, "grant", "write grant = \"refresh_token\", or what the vendor has");
        }
        let grant = self.written.choice(table, "grant", GRANTS, &["authorization_code"]);
        let place = self.endpoint(table, around);
        let words = [
            ("post", (ClientAuth::Body, Encoding::Form)),
            ("basic", (ClientAuth::Basic, Encoding::Form)),
            ("json", (ClientAuth::Body, Encoding::Json)),
        ];
        let (auth, encoding) =
            self.written.choice(table, "auth", &words, &[]).unwrap_or((ClientAuth::Body, Encoding::Form));
        let client = self.client(table, auth, grant);
        let mut parameters = Vec::new();
        for key in ["scope", "audience", "resource"] {
            parameters.extend(self.material(table, key).map(|value| (key.to_owned(), value)));
        }
        let more = self.written.child(table, "parameters", "integrations.*.oauth2.parameters");
        parameters.extend(self.all(&more));
        let known = place.as_ref().filter(|place| !(place.below_upstream && around.per_customer));
        let (assertion, bearer) = self.assertion(table, grant == Some(2), known);
        let answer = self.pointers(table, bearer);
        let lifetime = self.written.duration(table, "lifetime", LIFETIMES, HOUR);
        let refresh = self.field(table, "refresh_token", grant == Some(0));
        let kind = match grant? {
            0 => Grant::Refresh(refresh?),
            1 => Grant::ClientCredentials,
            _ => Grant::Assertion(assertion?),
        };
        let Endpoint { origin, path, below_upstream } = place?;
        let token_origin =
            Some(origin.clone()).filter(|origin| around.upstream.is_some_and(|up| up != origin));
        Some(Renewal {
            origin,
            token_origin,
            below_upstream,
            path,
            kind,
            client: client?,
            parameters,
            encoding,
            answer,
            lifetime,
        })
    }

    /// `token`: an endpoint with fields as segments of its path, or a path below upstream.
    fn endpoint(&mut self, table: &Table<'_>, around: &Around<'_>) -> Option<Endpoint> {
        let fix = "write the token endpoint: token = \"https://login.vendor.example/oauth/token\"";
        let given = self.written.needed_text(table, "token", fix)?;
        if given.value.starts_with('/') {
            let path = self.path(table, "token", &given)?;
            return Some(Endpoint { origin: around.upstream?.clone(), path, below_upstream: true });
        }
        let behind = given.value.find("://").map_or(0, |at| at + 3);
        let cut = given.value.get(behind..).and_then(|rest| rest.find('/')).map(|at| at + behind);
        let (origin, path) = given.value.split_at(cut.unwrap_or(given.value.len()));
        let origin = match upstream::parse(origin) {
            Ok((origin, _)) => origin,
            Err((problem, fix)) => {
                self.written.mask(&given.place);
                self.written.findings.error(&given.place, format!("{} token {problem}", table.shown), fix);
                return None;
            }
        };
        if !origin.is_secure() && !around.plaintext {
            let message = format!("{} token is http: the credential would go out in the clear", table.shown);
            let fix = "write https://, or for a private address plaintext_danger = true with private_cidrs";
            self.written.findings.error(&given.place, message, fix);
        }
        let path = self.path(table, "token", &Given { value: path.to_owned(), place: given.place })?;
        Some(Endpoint { origin, path, below_upstream: false })
    }

    fn client(
        &mut self,
        table: &Table<'_>,
        auth: ClientAuth,
        grant: Option<usize>,
    ) -> Option<Option<Client>> {
        let id = self.material_or_field(table, "client_id");
        let secret = self.material_or_field(table, "client_secret");
        let asked = |key: &str| table.entry(key).is_some();
        match (id, secret) {
            (None, _) if asked("client_id") || grant == Some(2) => Some(None).filter(|_| !asked("client_id")),
            (None, _) => {
                let fix = "write client_id = \"...\", or declare a field client_id";
                self.written.missing(table, "client_id", fix);
                None
            }
            (Some(_), None) if asked("client_secret") => None,
            (Some(_), None) if grant == Some(1) => {
                let fix = "write client_secret = \"file:PATH\", or declare a field client_secret";
                self.written.missing(table, "client_secret", fix);
                None
            }
            // A public client says who it is in the body (RFC 6749 section 2.3.1).
            (Some(id), None) => Some(Some(Client { id, secret: None, auth: ClientAuth::Body })),
            (Some(id), secret) => Some(Some(Client { id, secret, auth })),
        }
    }

    fn assertion(
        &mut self,
        oauth: &Table<'_>,
        wanted: bool,
        endpoint: Option<&Endpoint>,
    ) -> (Option<Assertion>, bool) {
        let table = self.written.child(oauth, "assertion", "integrations.*.oauth2.assertion");
        if !wanted || !table.exists() {
            if wanted {
                let fix = "write assertion = { algorithm = \"RS256\", issuer = \"{client_email}\", key = \"{private_key}\" }";
                self.written.missing(oauth, "assertion", fix);
            } else if table.exists() {
                let message = format!("{} is for grant = \"jwt_bearer\" alone", table.shown);
                self.written.findings.error(&table.place, message, "leave it away");
            }
            return (None, false);
        }
        let words = [("RS256", Signing::Rs256), ("ES256", Signing::Es256)];
        let algorithm = self.written.choice(&table, "algorithm", &words, &[]).unwrap_or(Signing::Rs256);
        let bearer =
            self.written.choice(&table, "send", &[("form", false), ("bearer", true)], &[]).unwrap_or(false);
        let mut claims = Vec::new();
        for (key, claim) in [("issuer", "iss"), ("subject", "sub"), ("audience", "aud"), ("scope", "scope")] {
            claims.extend(self.material(&table, key).map(|value| (claim, value)));
        }
        if table.entry("issuer").is_none() {
            self.written.missing(&table, "issuer", "write who signs: issuer = \"{client_email}\"");
        }
        // Whoever wants an assertion as a parameter wants to be named in it (RFC 7523 section 3).
        if !bearer
            && table.entry("audience").is_none()
            && let Some(Endpoint { origin, path, .. }) = endpoint
            && path.fields().is_empty()
            && let Template::Text(parts) = path
        {
            let path: String = parts.iter().map(super::super::template::Part::literal).collect();
            let text = format!("{origin}{path}");
            claims.extend(Template::parse(&text).ok().map(|text| ("aud", Material::Fields(text))));
        }
        let key_id = self.material(&table, "key_id");
        let longest = Duration::from_secs(5)..=HOUR;
        let lifetime = self.written.duration(&table, "lifetime", longest, Duration::from_secs(300));
        if table.entry("key").is_none() {
            self.written.missing(&table, "key", "write key = \"{private_key}\" or key = \"file:app.pem\"");
        }
        let key = self.material(&table, "key");
        (key.map(|key| Assertion { algorithm, key, key_id, claims, lifetime, bearer }), bearer)
    }

    fn pointers(&mut self, oauth: &Table<'_>, bearer: bool) -> Pointers {
        let table = self.written.child(oauth, "answer", "integrations.*.oauth2.answer");
        let token = self.pointer(&table, "token");
        let (expires_in, expires_at) =
            (self.pointer(&table, "expires_in"), self.pointer(&table, "expires_at"));
        let refresh = self.pointer(&table, "refresh_token");
        let or = |given: Option<String>, usual: &str| given.or_else(|| Some(usual.to_owned()));
        let standard = Pointers {
            token: token.clone().unwrap_or_else(|| "/access_token".to_owned()),
            expires_in: or(expires_in.clone(), "/expires_in"),
            expires_at: expires_at.clone(),
            refresh: or(refresh.clone(), "/refresh_token"),
        };
        if !bearer {
            return standard;
        }
        // As GitHub answers an App.
        Pointers {
            token: token.unwrap_or_else(|| "/token".to_owned()),
            expires_in,
            expires_at: or(expires_at, "/expires_at"),
            refresh,
        }
    }

    /// The name of the field under `key`, or the field of that name.
    fn field(&mut self, table: &Table<'_>, key: &str, wanted: bool) -> Option<FieldName> {
        let given = self.written.text(table, key);
        if !wanted {
            if let Some(given) = given {
                let message = format!("{} {key} is for grant = \"refresh_token\" alone", table.shown);
                self.written.findings.error(&given.place, message, "leave it away");
            }
            return None;
        }
        let (text, place) =
            given.map_or_else(|| (format!("{{{key}}}"), table.place.clone()), |g| (g.value, g.place));
        let template = self.template(table, key, &place, &text)?;
        match template.fields().as_slice() {
            [one] if text == format!("{{{one}}}") => Some((*one).clone()),
            _ => {
                self.written.mask(&place);
                let message = format!("{} {key} is one field", table.shown);
                self.written.findings.error(&place, message, format!("write {key} = \"{{{key}}}\""));
                None
            }
        }
    }
}

/// Marks the fields that are private keys: they have lines, and stand in no request.
pub(super) fn keys(renewal: &Renewal, fields: &mut [(FieldSetting, Place)]) {
    for (field, _) in fields.iter_mut().filter(|(field, _)| renewal.is_key(&field.spec.name)) {
        field.pem = true;
    }
}
