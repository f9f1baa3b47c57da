//! Whom this sidecar listens to: named in `[enrolment]`, or in the file that joining left behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::identity::{FileError, read_file};
use crate::model::{Authority, SpiffeId};

/// `[enrolment]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Enrolment {
    /// Named in the configuration.
    pub membership: Option<Membership>,
    /// What joining left: asked when nothing is named. `authority.toml` in the folder of the leaf.
    pub file: PathBuf,
    /// Not ready when the certificate or the revocation list ends sooner than this. Default 0.
    pub ready_before: Duration,
}

/// An authority, and where it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    /// Who it is.
    pub authority: SpiffeId,
    /// Where its peers' door is: 1..=16.
    pub paths: Vec<Authority>,
}

impl Enrolment {
    /// The authority that is named here or in the file; `None` when neither says any.
    ///
    /// # Errors
    /// In a few words, when the file is there and does not read.
    pub fn find(&self) -> Result<Option<Membership>, String> {
        match &self.membership {
            Some(membership) => Ok(Some(membership.clone())),
            None => read(&self.file),
        }
    }
}

fn read(path: &Path) -> Result<Option<Membership>, String> {
    match read_file(path, FILE_LEN_MAX) {
        Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => {
            let text = String::from_utf8_lossy(&read.map_err(|e| e.to_string())?).into_owned();
            Membership::read(&text).map(Some).ok_or_else(|| {
                format!(
                    "`{}` does not read: remove it, or name `[enrolment] authority` and `paths`",
                    path.display()
                )
            })
        }
    }
}

impl Membership {
    /// As `countersign join` writes it.
    pub fn to_toml(&self) -> String {
        let paths: Vec<_> = self.paths.iter().map(|path| format!("\"{path}\"")).collect();
        format!(
            "# The authority of this device, written by `countersign join`.\nauthority = \"{}\"\npaths = [{}]\n",
            self.authority,
            paths.join(", ")
        )
    }

    fn read(text: &str) -> Option<Self> {
        let raw: Raw = toml::from_str(text).ok()?;
        let paths: Option<Vec<_>> = raw.paths.iter().map(|path| path.parse().ok()).collect();
        let paths = paths.filter(|paths| (1..=PATHS_MAX).contains(&paths.len()))?;
        Some(Self { authority: raw.authority.parse().ok()?, paths })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    authority: String,
    paths: Vec<String>,
}

/// Most addresses of an authority.
pub(super) const PATHS_MAX: usize = 16;
const FILE_LEN_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_joining_writes_reads_back_and_anything_else_is_refused() {
        let membership = Membership {
            authority: "spiffe://example.org/device/authority".parse().unwrap(),
            paths: vec!["127.0.0.1:15443".parse().unwrap(), "ca.example.org:15443".parse().unwrap()],
        };
        let text = membership.to_toml();
        assert_eq!(Membership::read(&text), Some(membership));
        for bad in
            ["", "authority = 1", &text.replace("paths", "places"), &text.replace("spiffe://", "https://")]
        {
            assert_eq!(Membership::read(bad), None, "{bad}");
        }
        let many = |n| format!("authority = \"spiffe://a/b\"\npaths = [{}]", vec!["\"h:1\""; n].join(","));
        assert!(Membership::read(&many(PATHS_MAX)).is_some());
        assert!(Membership::read(&many(0)).is_none() && Membership::read(&many(PATHS_MAX + 1)).is_none());
    }

    #[test]
    fn a_named_authority_comes_before_the_file_and_a_broken_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("authority.toml");
        let named =
            Membership { authority: "spiffe://a/b".parse().unwrap(), paths: vec!["h:1".parse().unwrap()] };
        let with = |membership| Enrolment { membership, file: file.clone(), ready_before: Duration::ZERO };
        assert_eq!(with(None).find(), Ok(None));
        std::fs::write(&file, "what").unwrap();
        assert!(with(None).find().unwrap_err().contains("authority.toml"));
        assert_eq!(with(Some(named.clone())).find(), Ok(Some(named)));
    }
}
