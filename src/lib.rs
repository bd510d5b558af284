//! relay: a streaming reverse proxy that injects customers' secrets.
//!
//! An application sends its ordinary HTTP request here with the UUID of a secret and a JWT that names
//! the customer. relay checks that the secret is that customer's, decrypts the credential just before
//! the outbound TLS call, puts it where the vendor expects it, and streams the answer back. The
//! application never sees the credential.
//!
//! # The rooms, in reading order
//!
//! | room | what happens there |
//! | --- | --- |
//! | [`pipeline`] | the corridor: one request's whole life, ten calls from top to bottom |
//! | [`stage`] | a file per step of that life; each turns one proof into the next |
//! | [`refusal`], [`reply`] | what went wrong, its status and code; the only hand that writes relay's own answers |
//! | [`envelope`] | how a secret is sealed and bound to customer, integration and origin |
//! | [`seal`] | the write path: plaintext in, sealed row out |
//! | [`lifecycle`] | access tokens had and renewed, credentials tried before they are sealed: calls of relay's own |
//! | [`dependency`] | what relay does while something that it depends on does not work: one table |
//! | [`kms`], [`store`], [`audit`], [`jwks`] | one small trait each, one file per provider |
//! | [`net`] | the way out: resolve, vet, dial, verified TLS, the pool, strictly framed answers |
//! | [`listen`] | the doors: accept, TLS, workers, the gate, HTTP/1.1 and HTTP/2 connections, limits, drain |
//! | [`admin`], [`cli`] | the operators' API and the command line |
//! | [`config`] | relay.toml: what was written becomes what is usable, or every error at once |
//! | [`catalog`] | what vendors document about their APIs, for `use = "catalog:NAME"` |
//! | [`app`] | the switchboard: a [`config::Config`] becomes a running relay |
//! | [`framing`] | how HTTP/1.1 is framed, read strictly, for both sides |
//! | [`model`], [`secret`], [`clock`], [`metrics`] | the words everything else is said in |
//!
//! # What must always hold
//!
//! 1. Plaintext is born in [`stage::unseal`] and enters a request in [`stage::inject`]; nowhere else.
//! 2. A stage cannot be skipped: its proof has private fields and only the stage before can build it.
//! 3. Anything unclear is refused, by one stable code per cause.
//! 4. Bodies stream; memory is bounded by connections and named limits.
//! 5. Imports point one way (words, tools, work, paths, doors, wiring); `tests/relay/house.rs` holds
//!    them to it.

pub mod admin;
pub mod app;
pub mod audit;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dependency;
pub mod envelope;
pub mod framing;
pub mod jwks;
pub mod kms;
pub mod lifecycle;
pub mod listen;
pub mod metrics;
pub mod model;
pub mod net;
pub mod pipeline;
pub mod refusal;
pub mod reply;
pub mod seal;
pub mod secret;
pub mod stage;
pub mod store;
