//! One reason for every way a handshake can fail, on either side.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible};

use super::svid::SvidError;
use super::trust::TrustError;
use super::verify::PeerError;
use crate::model::Reason;

/// Why a handshake, or the session after it, failed.
///
/// An alert about *our* certificate is [`Reason::PeerRefused`]: what the other end believes of us is not
/// what we know of it. The alert's name is in the error's text.
pub fn reason_of(error: &Error) -> Reason {
    match error {
        Error::NoCertificatesPresented => Reason::CertificateMissing,
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::InvalidCertRevocationList(_) => Reason::CrlUnavailable,
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::Other(other) => of_other(other).unwrap_or(Reason::TlsFailed),
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => Reason::KeyExchangeRefused,
        Error::FailedToGetCurrentTime | Error::FailedToGetRandomBytes => Reason::Internal,
        _ => Reason::TlsFailed,
    }
}

/// [`reason_of`] for an error that came through a stream: rustls puts its own inside.
pub fn reason_of_io(error: &io::Error) -> Reason {
    if let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        return reason_of(tls);
    }
    // A layer between may have kept no more of it than its text, as h2 does.
    let text = error.to_string();
    if REFUSING.iter().any(|alert| text == Error::AlertReceived(*alert).to_string()) {
        return Reason::PeerRefused;
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => Reason::PeerClosed,
        io::ErrorKind::TimedOut => Reason::TlsTimeout,
        _ => Reason::TlsFailed,
    }
}

/// What happened, for people: our own words where rustls only carries them.
pub fn detail_of_io(error: &io::Error) -> String {
    match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(ours)))) => ours.to_string(),
        _ => error.to_string(),
    }
}

fn of_certificate(error: &CertificateError) -> Reason {
    use CertificateError as C;
    match error {
        C::Expired | C::ExpiredContext { .. } => Reason::CertificateExpired,
        C::NotValidYet | C::NotValidYetContext { .. } => Reason::CertificateNotYetValid,
        C::Revoked => Reason::CertificateRevoked,
        C::UnknownIssuer => Reason::CertificateUntrusted,
        C::UnknownRevocationStatus | C::ExpiredRevocationList | C::ExpiredRevocationListContext { .. } => {
            Reason::CrlUnavailable
        }
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => Reason::CertificateNotSvid,
        C::Other(other) => of_other(other).unwrap_or(Reason::CertificateInvalid),
        _ => Reason::CertificateInvalid,
    }
}

fn of_other(OtherError(error): &OtherError) -> Option<Reason> {
    if let Some(error) = error.downcast_ref::<PeerError>() {
        return Some(error.reason());
    }
    if let Some(error) = error.downcast_ref::<TrustError>() {
        return Some(error.reason());
    }
    error.downcast_ref::<SvidError>().map(|e| PeerError::from(e.clone()).reason())
}

fn of_alert(alert: AlertDescription) -> Reason {
    use AlertDescription as A;
    match alert {
        A::CloseNotify | A::UserCanceled => Reason::PeerClosed,
        alert if REFUSING.contains(&alert) => Reason::PeerRefused,
        _ => Reason::TlsFailed,
    }
}

/// Alerts that say: we do not believe you (RFC 8446 §6.2).
const REFUSING: &[AlertDescription] = &[
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::CertificateRequired,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn our_own_errors_come_out_of_rustls_as_they_went_in() {
        let cases = [
            (PeerError::Svid(SvidError::Ca), Reason::CertificateNotSvid),
            (PeerError::Svid(SvidError::Malformed), Reason::CertificateInvalid),
            (PeerError::Trust(TrustError::CrlUnavailable), Reason::CrlUnavailable),
            (PeerError::Trust(TrustError::Path(webpki::Error::CertRevoked)), Reason::CertificateRevoked),
            (PeerError::Trust(TrustError::Path(webpki::Error::BadDer)), Reason::CertificateInvalid),
        ];
        for (error, reason) in cases {
            let text = error.to_string();
            let error = Error::InvalidCertificate(error.into());
            assert_eq!(reason_of(&error), reason, "{text}");
            let error = io::Error::other(error);
            assert_eq!(reason_of_io(&error), reason, "{text}");
            // Where TLS has an alert of its own, rustls has its own words.
            assert!(reason == Reason::CertificateRevoked || detail_of_io(&error) == text, "{text}");
        }
        let bare = Error::Other(OtherError(Arc::new(SvidError::UriCount { count: 2 })));
        assert_eq!(reason_of(&bare), Reason::CertificateNotSvid);
    }

    #[test]
    fn an_alert_about_our_certificate_is_the_peers_refusal() {
        for alert in [AlertDescription::CertificateRevoked, AlertDescription::UnknownCA] {
            let error = Error::AlertReceived(alert);
            assert_eq!(reason_of(&error), Reason::PeerRefused);
            assert_eq!(reason_of_io(&io::Error::other(error.to_string())), Reason::PeerRefused);
        }
        let other = Error::AlertReceived(AlertDescription::HandshakeFailure);
        assert_eq!(reason_of(&other), Reason::TlsFailed);
    }

    #[test]
    fn a_broken_stream_is_no_broken_certificate() {
        let reason = |kind: io::ErrorKind| reason_of_io(&kind.into());
        assert_eq!(reason(io::ErrorKind::UnexpectedEof), Reason::PeerClosed);
        assert_eq!(reason(io::ErrorKind::TimedOut), Reason::TlsTimeout);
        assert_eq!(reason(io::ErrorKind::InvalidData), Reason::TlsFailed);
    }
}
