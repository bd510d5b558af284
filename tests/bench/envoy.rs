//! Envoy that injects one credential; with an issuer's keys, only for callers with its token, whose verdict
//! it caches.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::contenders::listening;
use crate::plan::PROXY_CPU;
use crate::process::Process;
use crate::stage::free_ports;
use crate::vendor::Vendor;

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// `issuer` is a folder made by `relay init --local-issuer`.
pub fn start(envoy: &Path, vendor: &Vendor, issuer: Option<&Path>) -> (Process, SocketAddr, TempDir) {
    let [address] = free_ports();
    let files = TempDir::new().unwrap();
    let mut filters: Vec<Value> = issuer.map(jwt).into_iter().collect();
    filters.push(injector());
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
    }));
    let configuration = json!({ "static_resources": {
        "secrets": [{ "name": "vendor", "generic_secret": { "secret": { "inline_string": Vendor::bearer() } } }],
        "listeners": [listener(address, vendor, &filters)],
        "clusters": [cluster(vendor)],
    } });
    let file = files.path().join("envoy.json");
    fs::write(&file, configuration.to_string()).unwrap();
    let mut command = Command::new("taskset");
    command.args(["-c", PROXY_CPU]).arg(envoy).arg("-c").arg(&file);
    command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
    let process = listening(&mut command, address, &files);
    (process, address, files)
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn injector() -> Value {
    json!({
        "name": "envoy.filters.http.credential_injector",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.credential_injector.v3.CredentialInjector"),
            "overwrite": true,
            "credential": {
                "name": "envoy.http.injected_credentials.generic",
                "typed_config": {
                    "@type": format!("{TYPES}.http.injected_credentials.generic.v3.Generic"),
                    "credential": { "name": "vendor" },
                    "header": "Authorization",
                },
            },
        },
    })
}

fn jwt(issuer: &Path) -> Value {
    json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": format!("{TYPES}.filters.http.jwt_authn.v3.JwtAuthentication"),
            "providers": { "callers": {
                "issuer": "urn:relay:local-issuer",
                "audiences": ["relay"],
                "local_jwks": { "filename": issuer.join("jwks.json").display().to_string() },
                "jwt_cache_config": { "jwt_cache_size": 1000 },
            } },
            "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "callers" } }],
        },
    })
}

fn listener(address: SocketAddr, vendor: &Vendor, filters: &[Value]) -> Value {
    let host = format!("localhost:{}", vendor.address().port());
    json!({ "address": socket(address), "filter_chains": [{ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "apps",
            "generate_request_id": false,
            "route_config": { "virtual_hosts": [{ "name": "vendor", "domains": ["*"], "routes": [{
                "match": { "prefix": "/" },
                "route": { "cluster": "vendor", "host_rewrite_literal": host, "timeout": "0s" },
            }] }] },
            "http_filters": filters,
        },
    }] }] })
}

fn cluster(vendor: &Vendor) -> Value {
    json!({
        "name": "vendor",
        "type": "STATIC",
        "load_assignment": { "cluster_name": "vendor", "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": socket(vendor.address()) } },
        ] }] },
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
            "sni": "localhost",
            "common_tls_context": {
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",
                },
                "validation_context": {
                    "trusted_ca": { "filename": vendor.ca.display().to_string() },
                    "match_typed_subject_alt_names": [
                        { "san_type": "DNS", "matcher": { "exact": "localhost" } },
                    ],
                },
            },
        } },
    })
}
