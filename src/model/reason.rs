//! Why not: the closed list of reasons a stranger may see.
//!
//! One row gives a reason its stable code, its HTTP status (RFC 9110 §15), its Proxy-Status error
//! (RFC 9209 §2.3), one plain sentence and the next step. The log, the audit and every wire take theirs from here.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $code:literal $status:literal $proxy:literal
       $sentence:literal $next:literal;)+) => {
        /// Why something was refused or ended. Codes are stable: they may be added, never renamed.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum Reason { $($(#[$doc])* $variant),+ }

        impl Reason {
            /// Every reason there is, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable code, `snake_case`.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// The HTTP status that carries it.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }

            /// The Proxy-Status error type that carries it (RFC 9209 §2.3).
            pub fn proxy_error(self) -> &'static str {
                match self { $(Self::$variant => $proxy),+ }
            }

            /// One plain sentence: what is wrong.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence),+ }
            }

            /// What to do next.
            pub fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next),+ }
            }
        }
    };
}

reasons! {
    /// No certificate was presented.
    CertificateMissing "certificate_missing" 403 "tls_certificate_error"
        "the peer presented no certificate"
        "give the client a device certificate: `countersign device issue`";
    /// Chains to no root in the bundle.
    CertificateUntrusted "certificate_untrusted" 403 "tls_certificate_error"
        "the peer's certificate was not issued by a CA in this sidecar's bundle"
        "compare the issuing CA with `certs/bundle.pem` on both sides";
    /// Past its notAfter.
    CertificateExpired "certificate_expired" 403 "tls_certificate_error"
        "the peer's certificate has expired"
        "issue a new one, and compare the clocks of both hosts";
    /// Before its notBefore.
    CertificateNotYetValid "certificate_not_yet_valid" 403 "tls_certificate_error"
        "the peer's certificate is not valid yet"
        "compare the clocks of both hosts";
    /// On the CRL.
    CertificateRevoked "certificate_revoked" 403 "tls_certificate_error"
        "the peer's certificate has been revoked"
        "issue a new certificate if the device may come back";
    /// Breaks a rule of X.509-SVID.
    CertificateNotSvid "certificate_not_svid" 403 "tls_certificate_error"
        "the peer's certificate is not a valid SPIFFE X.509-SVID"
        "issue it with exactly one URI SAN: `countersign device issue`";
    /// Signature or encoding is broken.
    CertificateInvalid "certificate_invalid" 403 "tls_certificate_error"
        "the peer's certificate or its signature is broken"
        "issue a new certificate";
    /// Of a trust domain other than ours.
    TrustDomainForeign "trust_domain_foreign" 403 "tls_certificate_error"
        "the peer belongs to another trust domain"
        "issue the peer a certificate of this trust domain";
    /// Not the identity the configuration names.
    PeerUnexpected "peer_unexpected" 502 "tls_certificate_error"
        "the peer is not the device that the configuration names"
        "compare `peer` of the outbound with the peer's certificate";
    /// A configured CRL is missing, broken or expired.
    CrlUnavailable "crl_unavailable" 503 "proxy_configuration_error"
        "the configured revocation list is missing, broken or expired"
        "publish a fresh CRL: `countersign ca crl`";
    /// No key exchange group is known to both ends.
    KeyExchangeRefused "key_exchange_refused" 502 "tls_protocol_error"
        "the peer and this sidecar have no key exchange group in common"
        "compare `[channel] pq` on both sides: `require` refuses peers without X25519MLKEM768";
    /// Any other handshake failure.
    TlsFailed "tls_failed" 502 "tls_protocol_error"
        "the TLS handshake failed"
        "check that both ends speak TLS 1.3 and share a key exchange group";
    /// The handshake took too long.
    TlsTimeout "tls_timeout" 502 "connection_timeout"
        "the TLS handshake took too long"
        "check the path between the two sidecars";
    /// Policy said no.
    PolicyDenied "policy_denied" 403 "http_request_denied"
        "no policy rule allows this"
        "ask why: `countersign audit why ID`, then add a permit to `policies/`";
    /// A rule failed while it was evaluated.
    PolicyError "policy_error" 403 "http_request_denied"
        "a policy rule could not be evaluated, so nothing is allowed"
        "run `countersign policy check` and mend the rule";
    /// A living flow is no longer allowed.
    PolicyWithdrawn "policy_withdrawn" 403 "http_request_denied"
        "the policy that allowed this flow was changed"
        "ask why: `countersign audit why ID`";
    /// The destination names no service of ours.
    ServiceUnknown "service_unknown" 403 "destination_ip_prohibited"
        "the destination names no service of this sidecar"
        "ask for an `[[inbound]]` name or its exact target";
    /// The host asked for at a local door is no outbound.
    OutboundUnknown "outbound_unknown" 403 "destination_ip_prohibited"
        "the destination names no outbound of this sidecar"
        "ask for the name of an `[[outbound]]`";
    /// Too many connections from one source before anyone is known.
    KnockLimited "knock_limited" 429 "connection_limit_reached"
        "this source opens connections too fast"
        "slow down, or raise `[limits] knocks_per_second`";
    /// Too many handshakes under way.
    HandshakesLimited "handshakes_limited" 503 "connection_limit_reached"
        "too many handshakes are under way"
        "try again, or raise `[limits] handshakes_max`";
    /// One device opens flows too fast.
    RateLimited "rate_limited" 429 "connection_limit_reached"
        "this device opens flows too fast"
        "slow down, or raise `[limits] flows_per_second`";
    /// One device holds too many flows.
    FlowsLimited "flows_limited" 429 "connection_limit_reached"
        "this device holds too many flows at once"
        "close some, or raise `[limits] flows_per_device_max`";
    /// The whole sidecar holds too many flows.
    FlowsExhausted "flows_exhausted" 503 "connection_limit_reached"
        "this sidecar holds as many flows as it may"
        "try again, or raise `[limits] flows_max`";
    /// No streams are left on the channel.
    StreamsExhausted "streams_exhausted" 503 "connection_limit_reached"
        "every connection to the peer carries as many streams as it may"
        "try again, or raise `[channel] connections_max`";
    /// File descriptors run out.
    DescriptorsExhausted "descriptors_exhausted" 503 "connection_limit_reached"
        "this process is running out of file descriptors"
        "raise `LimitNOFILE` of the service";
    /// The memory budget is spent.
    MemoryExhausted "memory_exhausted" 503 "connection_limit_reached"
        "the memory budget of this sidecar is spent"
        "try again, or raise `[limits] memory_max`";
    /// The audit log cannot take the entry.
    AuditUnavailable "audit_unavailable" 503 "proxy_internal_error"
        "the audit log cannot be written, so nothing new may start"
        "free the disk of `[audit] dir`, then watch `/readyz`";
    /// The target refused the connection.
    ConnectRefused "connect_refused" 502 "connection_refused"
        "the target refused the connection"
        "check that the service listens on its `target`";
    /// The target did not answer.
    ConnectTimeout "connect_timeout" 504 "connection_timeout"
        "the target did not answer in time"
        "check the network path to the target";
    /// The target cannot be reached.
    ConnectFailed "connect_failed" 502 "destination_unavailable"
        "the target could not be reached"
        "check the address and the network path to the target";
    /// A name could not be resolved.
    DnsError "dns_error" 502 "dns_error"
        "a name in `paths` or `target` could not be resolved"
        "check the name and the resolver of this host";
    /// A name took too long to resolve.
    DnsTimeout "dns_timeout" 504 "dns_timeout"
        "a name in `paths` or `target` took too long to resolve"
        "check the resolver of this host";
    /// The other sidecar refused, with its own reason.
    PeerRefused "peer_refused" 502 "http_request_denied"
        "the sidecar at the other end refused the flow"
        "read the peer's reason in the details";
    /// The other sidecar broke the connection off.
    PeerClosed "peer_closed" 502 "connection_terminated"
        "the sidecar at the other end closed the connection"
        "check the log of the other sidecar";
    /// The flow would come back to where it came from.
    LoopDetected "loop_detected" 502 "proxy_loop_detected"
        "the target is this sidecar's own door"
        "point `target` at the service, not at the sidecar";
    /// The request is malformed.
    RequestMalformed "request_malformed" 400 "http_request_error"
        "the request is malformed"
        "send `CONNECT service:port`";
    /// A method other than CONNECT.
    MethodNotAllowed "method_not_allowed" 405 "http_request_error"
        "only CONNECT is answered here"
        "send `CONNECT service:port`";
    /// The request head is too large.
    RequestTooLarge "request_too_large" 431 "http_request_error"
        "the request head is larger than allowed"
        "send fewer or shorter headers";
    /// The request did not arrive in time.
    RequestTimeout "request_timeout" 408 "http_request_error"
        "the request did not arrive in time"
        "send the whole request at once";
    /// Nothing moved for too long.
    IdleTimeout "idle_timeout" 504 "connection_read_timeout"
        "nothing moved on the flow for too long"
        "raise `idle_timeout` of the service, or send keep-alives";
    /// The session has reached its end of life.
    SessionExpired "session_expired" 403 "connection_terminated"
        "the certificate that proved this session has expired"
        "connect again with a fresh certificate";
    /// The sidecar is shutting down.
    Draining "draining" 503 "destination_unavailable"
        "this sidecar is shutting down"
        "try again, or at another sidecar";
    /// The analyser found the device's behaviour strange.
    BehaviourBlocked "behaviour_blocked" 403 "http_request_denied"
        "the traffic of this device behaves unlike it ever did, or like an attack"
        "read the rule and its figures in the audit log; `policies/behaviour.toml` says what is done about it";
    /// And more than once.
    BehaviourQuarantined "behaviour_quarantined" 403 "http_request_denied"
        "this device is in quarantine for the behaviour of its traffic"
        "look at the device; it ends by itself after a while that doubles each time, or at once by `countersign release`";
    /// The operator ended it.
    AdminClosed "admin_closed" 503 "connection_terminated"
        "an administrator ended this flow"
        "ask the administrator of this sidecar";
    /// The local caller may not use this door.
    CallerForbidden "caller_forbidden" 403 "http_request_denied"
        "this user may not use the admin socket"
        "call as root or as the user the sidecar runs as";
    /// The admin API knows no such path.
    AdminPathUnknown "admin_path_unknown" 404 "http_request_error"
        "the admin API has no such path here"
        "see `docs/operating.md` for the paths of the TCP address and of the socket";
    /// The admin API's path is asked for with another method.
    AdminMethodNotAllowed "admin_method_not_allowed" 405 "http_request_error"
        "the admin API answers this path to another method only"
        "use the method that the `Allow` header names";
    /// The Host header is none of ours (DNS rebinding guard).
    AdminHostForeign "admin_host_foreign" 421 "http_request_error"
        "the `Host` header names another server"
        "ask by the address itself, or add the name to `[admin] hosts`";
    /// Too many connections to the admin API.
    AdminLimited "admin_limited" 503 "connection_limit_reached"
        "too many connections to the admin API are open"
        "close some, then try again";
    /// A reload found mistakes; what ran before goes on.
    ReloadFailed "reload_failed" 409 "proxy_configuration_error"
        "what is there cannot be loaded, so what ran before goes on"
        "mend the named files, then reload again";
    /// No evidence from a device that must give it.
    EvidenceMissing "evidence_missing" 403 "http_request_denied"
        "the peer gave no evidence about its device"
        "run a sidecar that attests on that device, or name it among those that need not";
    /// Evidence that cannot be read, or is larger than allowed.
    EvidenceMalformed "evidence_malformed" 403 "http_request_error"
        "the evidence about the device cannot be read"
        "run the same version of Countersign on both sides";
    /// Evidence made for another connection, key or role: replayed, relayed or reflected.
    EvidenceBinding "evidence_binding" 403 "http_request_denied"
        "the evidence was made for another connection, key or role"
        "look for whoever stands between the two devices: `countersign audit why ID`";
    /// Evidence that the key of the connection did not sign.
    EvidenceSignature "evidence_signature" 403 "http_request_denied"
        "the evidence was not signed by the key that the connection was opened with"
        "look for a copied certificate: `countersign audit why ID`";
    /// Evidence of another time than now.
    EvidenceStale "evidence_stale" 403 "http_request_denied"
        "the evidence is of another time than now"
        "compare the clocks of both hosts";
    /// No device record where one is needed.
    RecordMissing "record_missing" 403 "http_request_denied"
        "the peer gave no record of its device"
        "enrol the device: `countersign device invite`, then `countersign join`";
    /// A record that is broken, badly signed, or of another device or key.
    RecordInvalid "record_invalid" 403 "http_request_denied"
        "the record of the device is broken, badly signed, or of another device"
        "enrol the device again: `countersign device invite`, then `countersign join`";
    /// A record older than one already seen.
    RecordRolledBack "record_rolled_back" 403 "http_request_denied"
        "the record of the device is older than one already seen"
        "bring the device its newest record, and ask who kept an old one";
    /// A record past its end.
    RecordExpired "record_expired" 403 "http_request_denied"
        "the record of the device has expired"
        "bring the device to its authority, and compare the clocks of both hosts";
    /// Too much of the device changed, or the authority said so.
    DeviceQuarantined "device_quarantined" 403 "http_request_denied"
        "the device is in quarantine"
        "look at what changed, then enrol it again, or `countersign device approve NAME` where an administrator put it there";
    /// The authority took the device out.
    DeviceRevoked "device_revoked" 403 "http_request_denied"
        "the device has been revoked"
        "enrol it again if it may come back";
    /// The device proves less than the service asks for.
    TierTooLow "tier_too_low" 403 "http_request_denied"
        "the device is bound to its identity less strongly than asked for"
        "enrol it with a higher tier, or lower what the policy asks for";
    /// The lease ran out and was not renewed.
    LeaseExpired "lease_expired" 403 "connection_terminated"
        "the lease of the session ran out and was not renewed"
        "check that both sidecars run and reach each other";
    /// As many requests that are no flows are under way as may be.
    ErrandsLimited "errands_limited" 503 "connection_limit_reached"
        "too many requests that are no flows are under way on this session"
        "try again in a moment";
    /// A request that is no flow, and nothing else that is known here.
    ErrandUnknown "errand_unknown" 404 "http_request_error"
        "this sidecar does nothing of that name"
        "run the same version of Countersign on both sides, and ask the sidecar that has `[authority]`";
    /// Two machines seem to use one identity.
    CloneSuspected "clone_suspected" 403 "http_request_denied"
        "two machines seem to use the identity of this device"
        "find the copy, then give it an identity of its own: `countersign device reset-clone NAME`";
    /// A token that the authority never made or has forgotten.
    JoinTokenUnknown "join_token_unknown" 403 "http_request_denied"
        "the authority knows no such token"
        "make a new one: `countersign device invite`";
    /// A token that was used.
    JoinTokenSpent "join_token_spent" 403 "http_request_denied"
        "the token has been used"
        "make a new one: `countersign device invite`; ask who used this one";
    /// A token past its end.
    JoinTokenExpired "join_token_expired" 403 "http_request_denied"
        "the token has expired"
        "make a new one: `countersign device invite`";
    /// A token of another authority.
    JoinTokenForeign "join_token_foreign" 403 "http_request_denied"
        "the token is of another authority"
        "take the token to the authority that made it";
    /// A request for a name other than the token's.
    JoinNameMismatch "join_name_mismatch" 403 "http_request_denied"
        "the token was made for another name"
        "make a token for this name: `countersign device invite --name NAME`";
    /// Joining waits for a person.
    JoinPending "join_pending" 503 "http_request_denied"
        "joining waits for approval"
        "approve it on the authority: `countersign device approve NAME`, then join again";
    /// A person said no.
    JoinDenied "join_denied" 403 "http_request_denied"
        "joining was denied by an administrator"
        "ask the administrator of the authority";
    /// Anything but joining on the join door.
    JoinDoorOnly "join_door_only" 403 "http_request_denied"
        "nothing but joining is possible here"
        "join first, then connect with the certificate";
    /// More joins at once than the authority takes.
    JoinLimited "join_limited" 503 "connection_limit_reached"
        "the authority is busy with other joins"
        "run the same `countersign join` again";
    /// No authority here.
    JoinUnavailable "join_unavailable" 403 "http_request_denied"
        "this sidecar is no authority, so nobody can join here"
        "join at the sidecar that has `[authority]`, or make a new token with its address";
    /// No message of joining, or one that is too long.
    JoinMalformed "join_malformed" 400 "http_request_error"
        "what came is no message of joining, or is larger than allowed"
        "run the same version of Countersign on both sides";
    /// No certificate request that can be used.
    JoinCsrInvalid "join_csr_invalid" 400 "http_request_error"
        "the certificate request is broken, or its signature is"
        "remove `join-state` of the `--out` folder and join again with a new token";
    /// Another request than the one the token was used for first.
    JoinCsrChanged "join_csr_changed" 403 "http_request_denied"
        "the token was used before with another key"
        "join from the folder that began, or deny this one and make a new token; if nobody began, the token was stolen";
    /// The acknowledgement is not of the new key.
    JoinAckInvalid "join_ack_invalid" 403 "http_request_denied"
        "the acknowledgement is not signed by the key of the new certificate"
        "join again with the same token from the folder that began";
    /// Renewal or recovery with a key that has been renewed before.
    RenewSuperseded "renew_superseded" 403 "http_request_denied"
        "the device asks with a key that it has renewed before"
        "look for a copy of the device; if there is none, enrol it again: `countersign device invite`";
    /// Recovery where the authority takes no expired devices.
    RecoverOff "recover_off" 403 "http_request_denied"
        "the authority takes back no device whose certificate has expired"
        "enrol it again: `countersign device invite`, or set `[authority] recover_grace`";
    /// Recovery later than the grace.
    RecoverLate "recover_late" 403 "http_request_denied"
        "the certificate expired longer ago than the authority forgives"
        "enrol the device again: `countersign device invite`";
    /// Recovery that does not prove what it must.
    RecoverRefused "recover_refused" 403 "http_request_denied"
        "the device does not prove the expired certificate that it wants renewed"
        "enrol it again: `countersign device invite`; ask who tried";
    /// An errand for the authority at a sidecar that is none.
    AuthorityAbsent "authority_absent" 404 "http_request_denied"
        "this sidecar is no authority"
        "compare `[enrolment]` with the sidecar that has `[authority]`";
    /// As many devices wait for news as may.
    NewsLimited "news_limited" 503 "connection_limit_reached"
        "as many devices wait for news of the authority as may"
        "nothing: the device asks again by itself";
    /// No message between device and authority, or one that is too long.
    NewsMalformed "news_malformed" 400 "http_request_error"
        "what came is no message between a device and its authority, or is larger than allowed"
        "run the same version of Countersign on both sides";
    /// What the authority sent does not hold.
    NewsInvalid "news_invalid" 502 "http_response_incomplete"
        "what the authority sent is broken, badly signed, older than what is here, or does not fit this device"
        "look at the authority: `countersign audit why ID`; what was here before stays in force";
    /// Our own mistake.
    Internal "internal_error" 500 "proxy_internal_error"
        "something went wrong inside this sidecar"
        "report it with the decision id and the log";
}

impl Reason {
    /// The reason with this code.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.code() == code)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_of_its_own_and_a_next_step() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
            assert!(reason.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert!((400..600).contains(&reason.http_status()));
            assert!(!reason.sentence().is_empty() && !reason.next_step().is_empty());
        }
    }
}
