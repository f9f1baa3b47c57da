//! `countersign device show`: what this machine would be recognised by, in digests only.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::HEXLOWER;
use ring::rand::{SecureRandom, SystemRandom};

use crate::device::{
    Class, Collected, Component, Fingerprint, Missing, Salt, SaltError, SysrootError, Weights, collect,
    fingerprint,
};

/// Which machine to look at, and under which salt.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Root folder of the machine to look at
    #[arg(long, default_value = "/")]
    pub sysroot: PathBuf,
    /// Folder with `device.salt`
    #[arg(long, default_value = "certs")]
    pub certs: PathBuf,
}

/// Writes components, profile and fingerprint to `out`. Makes no file.
///
/// # Errors
/// [`ShowError`] when the machine or the salt cannot be read, or `out` not be written.
pub fn show(args: &ShowArgs, out: &mut dyn Write) -> Result<(), ShowError> {
    let collected = collect(&args.sysroot)?;
    let salt = salt(&args.certs)?;
    let shown = fingerprint(&collected, salt.as_ref().unwrap_or(&throwaway()?));
    let weights = Weights::default();
    writeln!(out, "machine     `{}`", args.sysroot.display())?;
    writeln!(out, "profile     {}", shown.profile.name())?;
    writeln!(out, "weight      {} of {}", weights.sum(shown.values.keys()), weights.sum(Component::ALL))?;
    writeln!(out, "fingerprint {}", shown.digest())?;
    writeln!(out)?;
    for component in Component::ALL {
        row(*component, &collected, &shown, &weights, out)?;
    }
    notes(args, &collected, salt.is_some(), out)?;
    Ok(())
}

fn row(
    component: Component,
    collected: &Collected,
    shown: &Fingerprint,
    weights: &Weights,
    out: &mut dyn Write,
) -> io::Result<()> {
    let said = match (shown.values.get(&component), collected.missing.get(&component)) {
        (Some(values), _) => {
            let digests: Vec<_> = values.iter().map(|v| HEXLOWER.encode(v)).collect();
            digests.join(" ")
        }
        (None, Some(Missing::NeedsRoot)) => "- needs root".to_owned(),
        (None, Some(Missing::Junk)) => "- the maker left it empty".to_owned(),
        (None, _) => "- not there".to_owned(),
    };
    let weight = match component.class() {
        Class::Observed => "-".to_owned(),
        _ => weights.of(component).to_string(),
    };
    let (name, class) = (component.name(), component.class().name());
    writeln!(out, "{name:<19} {class:<9} {weight:>2}  {said}")
}

fn notes(args: &ShowArgs, collected: &Collected, salted: bool, out: &mut dyn Write) -> io::Result<()> {
    let root = collected.missing.values().filter(|m| **m == Missing::NeedsRoot).count();
    if root > 0 {
        writeln!(out, "note: {root} need root; a device enrolled without them goes without them")?;
    }
    if collected.container {
        writeln!(
            out,
            "note: this is a container; mount the host's root folder and name it with `--sysroot`"
        )?;
    }
    if !salted {
        let salt = args.certs.join(SALT);
        writeln!(
            out,
            "note: there is no `{}` yet, so these digests are for once; joining makes it",
            salt.display()
        )?;
    }
    Ok(())
}

/// The salt of this device, if it has one yet.
fn salt(certs: &Path) -> Result<Option<Salt>, SaltError> {
    match Salt::load(&certs.join(SALT)) {
        Err(SaltError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        loaded => loaded.map(Some),
    }
}

/// Without a salt of its own the machine shows itself under one that nobody will see again.
fn throwaway() -> Result<Salt, ShowError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| ShowError::Random)?;
    Ok(Salt::new(bytes))
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShowError {
    /// The text could not be written.
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// The salt cannot be read.
    #[error(transparent)]
    Salt(#[from] SaltError),
    /// There is no such machine.
    #[error(transparent)]
    Sysroot(#[from] SysrootError),
}

const SALT: &str = "device.salt";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::demo_machine;

    /// What is shown of the machine of this seed, with the salt in `certs`.
    fn play(seed: u8, certs: &Path) -> String {
        let dir = tempfile::tempdir().unwrap();
        demo_machine(dir.path(), seed).unwrap();
        std::fs::write(dir.path().join("sys/class/dmi/id/board_serial"), "Default string").unwrap();
        let mut text = Vec::new();
        show(&ShowArgs { sysroot: dir.path().into(), certs: certs.into() }, &mut text).unwrap();
        String::from_utf8(text).unwrap().replace(dir.path().to_str().unwrap(), "DIR")
    }

    #[test]
    fn a_machine_is_shown_in_digests_only() {
        let certs = tempfile::tempdir().unwrap();
        Salt::load_or_make(&certs.path().join(SALT)).unwrap();
        let text = play(0xab, certs.path());
        assert!(text.starts_with("machine     `DIR`\nprofile     full\nweight      85 of 100\nfingerprint "));
        assert!(text.contains("\ndmi.board_serial    board     15  - the maker left it empty\n"), "{text}");
        for component in Component::ALL {
            assert!(text.contains(&format!("\n{} ", component.name())), "{component}");
        }
        for raw in
            ["f31323ab", "PFab", "pfab", "Genuine", "naa.5", "52:54", "7f2c1d0e", "debian", "6.1.0", "x86"]
        {
            assert!(!text.contains(raw), "{raw}: {text}");
        }
        assert!(!text.contains("note:"), "{text}");
        assert_eq!(text, play(0xab, certs.path()), "the same machine shows the same");
    }

    #[test]
    fn without_a_salt_none_is_made_and_it_is_said() {
        let certs = tempfile::tempdir().unwrap();
        let text = play(1, certs.path());
        assert!(text.contains("these digests are for once"), "{text}");
        assert_ne!(text, play(1, certs.path()));
        assert_eq!(std::fs::read_dir(certs.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let none = dir.path().join("none");
        let play = |sysroot: &Path| {
            let args = ShowArgs { sysroot: sysroot.into(), certs: dir.path().into() };
            show(&args, &mut Vec::new()).map_err(|e| e.to_string())
        };
        assert!(play(&none).unwrap_err().contains("cannot be looked into"));
        std::fs::write(dir.path().join(SALT), "short").unwrap();
        let error = play(dir.path()).unwrap_err();
        assert!(error.contains("0600") || error.contains("32 bytes"), "{error}");
    }
}
