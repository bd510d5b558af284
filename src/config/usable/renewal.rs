//! `oauth2` and `login`: by what an access token is had, and where.
//!
//! The endpoint is fixed here, like an upstream. Who asks and with what is written as text with fields in it, or
//! as `env:` and `file:` for what is the operator's own; a literal credential is refused and never quoted.

use std::time::Duration;

use super::super::renewal::{
    ACCESS_TOKEN, Assertion, Client, ClientAuth, Encoding, Grant, Material, Pointers, Renewal, Signing,
};
use super::super::report::Place;
use super::super::template::Template;
use super::super::written::{Given, Table, Written};
use super::super::{FieldSetting, environment};
use super::upstream;
use crate::model::{FieldName, FieldSpec, Origin};

type Fields = [(FieldSetting, Place)];

/// Where the integration's own calls go, and whether its operator opened plaintext.
pub(super) struct Around<'a> {
    pub(super) upstream: Option<&'a Origin>,
    /// Whether that is each customer's own.
    pub(super) per_customer: bool,
    pub(super) plaintext: bool,
}

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

/// Reads the keys of one table against the fields.
pub(super) struct Reader<'w, 'a, 'f> {
    pub(super) written: &'w mut Written<'a>,
    fields: &'f Fields,
    used: &'f mut Vec<FieldName>,
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

    /// A path with fields in it.
    pub(super) fn path(&mut self, table: &Table<'_>, key: &str, given: &Given<String>) -> Option<Template> {
        let text = if given.value.is_empty() { "/" } else { &given.value };
        let clear = text.bytes().all(|b| (0x21..0x7f).contains(&b)) && !text.contains(['#', '\\', '@']);
        let dots = text.split(['/', '?']).any(|segment| segment == "." || segment == "..");
        if !text.starts_with('/') || !clear || dots {
            let message = format!("{} {key} has no clear path", table.shown);
            self.written.mask(&given.place);
            self.written.findings.error(
                &given.place,
                message,
                "write it like /oauth/token, without dot segments",
            );
            return None;
        }
        self.template(table, key, &given.place, text)
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

    /// A JSON pointer (RFC 6901).
    pub(super) fn pointer(&mut self, table: &Table<'_>, key: &str) -> Option<String> {
        let given = self.written.text(table, key)?;
        if !given.value.starts_with('/') || given.value.chars().any(char::is_control) {
            let message = format!("{} {key} is no JSON pointer", table.shown);
            self.written.findings.error(&given.place, message, "begin it with a slash: \"/data/token\"");
            return None;
        }
        Some(given.value)
    }

    /// Every key of a table whose names people choose.
    pub(super) fn all(&mut self, table: &Table<'_>) -> Vec<(String, Material)> {
        let names: Vec<String> = table.in_order().into_iter().map(|(name, ..)| name.to_owned()).collect();
        let mut all = Vec::new();
        for name in names {
            all.extend(self.material(table, &name).map(|value| (name, value)));
        }
        all
    }

    /// What stands under `key`, else the field of that name, if it is declared.
    fn material_or_field(&mut self, table: &Table<'_>, key: &str) -> Option<Material> {
        if table.entry(key).is_some() {
            return self.material(table, key);
        }
        // A variable may set it, too.
        if let Some(value) = self.material(table, key) {
            return Some(value);
        }
        let place = table.place.clone();
        self.declared(key)
            .then(|| self.template(table, key, &place, &format!("{{{key}}}")))?
            .map(Material::Fields)
    }

    /// The value under `key`: fields, or the operator's own from outside the text.
    pub(super) fn material(&mut self, table: &Table<'_>, key: &str) -> Option<Material> {
        let given = self.written.raw(table, key)?;
        let outside =
            environment::source(&given.value).is_some() || matches!(given.place, Place::Variable(_));
        if outside {
            return self.written.secret(table, key, 1).map(|given| Material::Owned(given.value));
        }
        let template = self.template(table, key, &given.place, &given.value)?;
        if template.fields().is_empty() && is_credential(key) {
            self.written.mask(&given.place);
            let message = format!("{} {key} is a secret and may not stand in relay.toml itself", table.shown);
            let fix = format!(
                "write {key} = \"file:PATH\", {key} = \"env:NAME\" or a field {{{key}}}, and replace this secret"
            );
            self.written.findings.error(&given.place, message, fix);
            return None;
        }
        Some(Material::Fields(template))
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

    fn declared(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field.spec.name.as_str() == name)
    }

    fn template(&mut self, table: &Table<'_>, key: &str, place: &Place, text: &str) -> Option<Template> {
        let template = match Template::parse(text) {
            Ok(template @ Template::Text(_)) => template,
            wrong => {
                self.written.mask(place);
                let problem = wrong.err().unwrap_or_else(|| "it is text with {field} in it".to_owned());
                self.written.findings.error(
                    place,
                    format!("{} {key}: {problem}", table.shown),
                    "write \"{field}\"",
                );
                return None;
            }
        };
        for name in template.fields() {
            if !self.declared(name.as_str()) {
                let message = format!("{} {key}: {{{name}}} is not one of its fields", table.shown);
                self.written.findings.error(place, message, format!("declare {name} in fields"));
                return None;
            }
            self.used.push(name.clone());
        }
        Some(template)
    }
}

/// Whether a name is one that credentials have.
fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "key"
        || ["secret", "password", "passwd", "token", "api_key", "apikey"]
            .iter()
            .any(|word| name.contains(word))
}

/// Marks the fields that are private keys: they have lines, and stand in no request.
pub(super) fn keys(renewal: &Renewal, fields: &mut [(FieldSetting, Place)]) {
    for (field, _) in fields.iter_mut().filter(|(field, _)| renewal.is_key(&field.spec.name)) {
        field.pem = true;
    }
}
