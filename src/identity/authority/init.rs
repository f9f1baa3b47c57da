//! Makes a CA: an offline-able root, an issuing CA below it, empty revocation lists.

use std::path::Path;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::super::file::{Access, make_dir, write};
use super::crl::{CRL_TTL_DEFAULT, CrlState, lists_pem};
use super::{
    AuthorityError, BUNDLE_PEM, CRL_PEM, DAY, Folder, ISSUING_KEY, ISSUING_PEM, LEDGER, ROOT_KEY, ROOT_PEM,
    date, earlier, generate_key, name, random, random_serial,
};
use crate::model::{Timestamp, TrustDomain};

/// The dates of a new CA.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Created {
    /// When the root ends.
    pub root_not_after: Timestamp,
    /// When the issuing CA ends.
    pub issuing_not_after: Timestamp,
    /// When the CRL must have been renewed.
    pub crl_next_update: Timestamp,
}

/// Makes a CA for `trust_domain` in `dir`: a root for ten years, an issuing CA for one.
///
/// # Errors
/// [`AuthorityError::Exists`] when `dir` holds any file of a CA; nothing is changed then.
pub fn init(dir: &Path, trust_domain: &TrustDomain, now: Timestamp) -> Result<Created, AuthorityError> {
    make_dir(dir)?;
    let folder = Folder::open(dir)?;
    for file in [ROOT_PEM, ROOT_KEY, ISSUING_PEM, ISSUING_KEY, BUNDLE_PEM, CRL_PEM, LEDGER] {
        let path = folder.file(file);
        // `exists()` would say "no" where it cannot look.
        if path.symlink_metadata().is_ok() {
            return Err(AuthorityError::Exists { path });
        }
    }
    // CRLs are found by their issuer's name, so no two CAs may ever share one.
    let tag = data_encoding::HEXLOWER.encode(&random::<4>()?);
    let root_not_after = now.plus(ROOT_TTL);
    let issuing_not_after = now.plus(ISSUING_TTL);

    let root_name = name(&format!("{trust_domain} root {tag}"));
    let root_params = ca_params(root_name, trust_domain, 1, now, root_not_after)?;
    let root_key = generate_key()?;
    let root_pem = root_params.self_signed(&root_key)?.pem();
    let root_key_pem = root_key.serialize_pem();
    let root: Issuer<'_, KeyPair> = Issuer::new(root_params, root_key);

    let issuing_name = name(&format!("{trust_domain} issuing {tag}"));
    let issuing_params = ca_params(issuing_name, trust_domain, 0, now, issuing_not_after)?;
    let issuing_key = generate_key()?;
    let issuing_pem = issuing_params.signed_by(&issuing_key, &root)?.pem();
    let issuing_key_pem = issuing_key.serialize_pem();
    let issuing: Issuer<'_, KeyPair> = Issuer::new(issuing_params, issuing_key);

    let crl_next_update = now.plus(CRL_TTL_DEFAULT);
    // The root's list lives as long as the only certificate it could revoke: its key stays offline.
    let root_list = CrlState::default().sign(&root, now, issuing_not_after)?;
    let issuing_list = CrlState::default().sign(&issuing, now, crl_next_update)?;

    write(&folder.file(ROOT_KEY), root_key_pem.as_bytes(), Access::Owner)?;
    write(&folder.file(ISSUING_KEY), issuing_key_pem.as_bytes(), Access::Owner)?;
    write(&folder.file(ROOT_PEM), root_pem.as_bytes(), Access::Everybody)?;
    write(&folder.file(BUNDLE_PEM), root_pem.as_bytes(), Access::Everybody)?;
    write(&folder.file(LEDGER), b"", Access::Owner)?;
    write(&folder.file(CRL_PEM), lists_pem(&[issuing_list, root_list]).as_bytes(), Access::Everybody)?;
    write(&folder.file(ISSUING_PEM), issuing_pem.as_bytes(), Access::Everybody)?;
    Ok(Created { root_not_after, issuing_not_after, crl_next_update })
}

pub(super) fn ca_params(
    name: DistinguishedName,
    trust_domain: &TrustDomain,
    cas_below: u8,
    now: Timestamp,
    not_after: Timestamp,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(random_serial()?);
    params.not_before = date(earlier(now, super::BACKDATE));
    params.not_after = date(not_after);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(cas_below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // A signing certificate names its trust domain without a path (SPIFFE X509-SVID §4.1).
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{trust_domain}"))?)];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

pub(super) const ROOT_TTL: std::time::Duration = DAY.saturating_mul(3652);
pub(super) const ISSUING_TTL: std::time::Duration = DAY.saturating_mul(365);
