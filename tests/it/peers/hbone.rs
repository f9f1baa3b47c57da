//! Envoy speaks HBONE with us: HTTP/2 CONNECT over mutual TLS, as Istio's ambient mesh does.

use std::net::SocketAddr;

use super::{curl, stdout};
use crate::support::{Credentials, Yard, envoy, free_addr, nginx};

/// Envoy's TLS with a device's certificate, whose peer must have this SPIFFE ID.
fn tls(way: &str, own: &Credentials, peer: &str) -> String {
    let required = if way == "Downstream" { "require_client_certificate: true, " } else { "" };
    format!(
        "transport_socket: {{name: envoy.transport_sockets.tls, typed_config: {{\
         \"@type\": {TYPE}.transport_sockets.tls.v3.{way}TlsContext, {required}common_tls_context: {{\
         alpn_protocols: [h2], \
         tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, \
         tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}], \
         validation_context: {{trusted_ca: {{filename: {}}}, \
         match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: '{peer}'}}}}]}}}}}}}}",
        own.leaf.display(),
        own.key.display(),
        own.bundle.display()
    )
}

fn address(addr: SocketAddr) -> String {
    format!("{{socket_address: {{address: {}, port_value: {}}}}}", addr.ip(), addr.port())
}

fn cluster(name: &str, addr: SocketAddr, more: &str) -> String {
    format!(
        "  - name: {name}\n    type: STATIC\n    connect_timeout: 5s\n    load_assignment: {{cluster_name: {name}, \
         endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}\n{more}",
        address(addr)
    )
}

/// An app's port that leads through an HBONE tunnel to `authority`.
fn client(app: SocketAddr, door: SocketAddr, own: &Credentials, authority: &str) -> String {
    let h2 = format!(
        "    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \
         \"@type\": {TYPE}.upstreams.http.v3.HttpProtocolOptions\n        \
         explicit_http_config: {{http2_protocol_options: {{}}}}\n    {}\n",
        tls("Upstream", own, "spiffe://example.org/device/server-1")
    );
    format!(
        "static_resources:\n  listeners:\n  - name: app\n    address: {}\n    filter_chains:\n    - filters:\n      \
         - name: tcp\n        typed_config:\n          \"@type\": {TYPE}.filters.network.tcp_proxy.v3.TcpProxy\n          \
         stat_prefix: app\n          cluster: door\n          tunneling_config:\n            \
         hostname: {authority}\n            headers_to_add:\n            \
         - header: {{key: baggage, value: 'k8s.namespace.name=default,service.name=web'}}\n            \
         - header: {{key: forwarded, value: 'for=192.0.2.99'}}\n  clusters:\n{}",
        address(app),
        cluster("door", door, &h2)
    )
}

/// A tunnel's end that leads to `service`.
fn server(door: SocketAddr, own: &Credentials, service: SocketAddr) -> String {
    format!(
        "static_resources:\n  listeners:\n  - name: door\n    address: {}\n    filter_chains:\n    - {}\n      filters:\n      \
         - name: http\n        typed_config:\n          \
         \"@type\": {TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: door\n          codec_type: HTTP2\n          http2_protocol_options: {{allow_connect: true}}\n          \
         upgrade_configs: [{{upgrade_type: CONNECT}}]\n          \
         http_filters: [{{name: router, typed_config: {{\"@type\": {TYPE}.filters.http.router.v3.Router}}}}]\n          \
         route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{connect_matcher: {{}}}}, \
         route: {{cluster: app, timeout: 0s, upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{}}}}]}}}}]}}]}}\n  \
         clusters:\n{}",
        address(door),
        tls("Downstream", own, "spiffe://example.org/device/web-1"),
        cluster("app", service, "")
    )
}

const TYPE: &str = "type.googleapis.com/envoy.extensions";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs envoy, nginx, curl: run `just test-peers`"]
async fn envoy_reaches_a_service_behind_us_by_its_address() {
    let nginx = nginx();
    let yard = Yard::new();
    let (sidecar, door) = yard.server(&nginx.addr.to_string(), "").await;
    let app = free_addr();
    let _envoy = envoy(&client(app, door, &yard.issue("web-1"), &nginx.addr.to_string()), app);
    let answer = curl(&format!("http://{app}/"));
    assert_eq!(stdout(&answer), "nginx says hello\n", "{answer:?}");
    let open = sidecar.wrote("open", "").await;
    assert_eq!(
        (&open["device"], &open["service"], &open["source"]),
        (&"spiffe://example.org/device/web-1".into(), &"orders".into(), &"127.0.0.1".into()),
        "{open}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs envoy, nginx, curl: run `just test-peers`"]
async fn an_app_of_ours_reaches_a_service_behind_envoy() {
    let nginx = nginx();
    let yard = Yard::new();
    let door = free_addr();
    let _envoy = envoy(&server(door, &yard.issue("server-1"), nginx.addr), door);
    let (sidecar, app) = yard.web(door, "").await;
    let answer = curl(&format!("http://{app}/"));
    assert_eq!(stdout(&answer), "nginx says hello\n", "{answer:?}");
    let open = sidecar.wrote("open", "").await;
    assert_eq!(open["peer"], "spiffe://example.org/device/server-1", "{open}");
    println!("envoy as HBONE server: {} {}", open["group"], open["cipher"]);
}
