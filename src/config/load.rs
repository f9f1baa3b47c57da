//! What the file means: each table becomes a room's `Settings`, then all of them are held against each other.

use std::io::Read as _;
use std::path::Path;

use toml::de::DeTable;

use super::mistake::{Mistakes, Notes, Read};
use super::raw::Table;
use super::{Config, doors, rooms};
use crate::capture::Listen;
use crate::net::Target;
use crate::{channel, flow, identity};

/// Largest configuration file in bytes.
pub const FILE_LEN_MAX: usize = 1024 * 1024;

/// Reads the file at `path` and what it says; looks for `certs/crl.pem` beside it.
///
/// # Errors
/// [`Mistakes`], all of them; also when the file cannot be read.
pub fn load(path: &Path) -> Result<Config, Mistakes> {
    let text = read(path).map_err(|message| Mistakes::of_file(path, message))?;
    let source = std::path::absolute(path)
        .map_err(|e| Mistakes::of_file(path, format!("has no absolute path: {e}")))?;
    // A revocation list that cannot be looked for counts as there: `identity` then refuses until it can be read.
    parse(&text, &source, &|path| path.try_exists().unwrap_or(true))
        .map_err(|mistakes| Mistakes { file: path.to_owned(), ..mistakes })
}

/// Reads what `text` says; it stands in the file `source`, whose folder all relative paths are relative to.
///
/// `exists` is asked for one path only: the revocation list that is used when the file names none.
///
/// # Errors
/// [`Mistakes`], all of them.
pub fn parse(text: &str, source: &Path, exists: &dyn Fn(&Path) -> bool) -> Result<Config, Mistakes> {
    if text.len() > FILE_LEN_MAX {
        return Err(Mistakes::of_file(source, too_large()));
    }
    let notes = Notes::new(text);
    let (tree, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        notes.syntax(error.span().map_or(0, |span| span.start), error.message());
    }
    let folder = source.parent().unwrap_or(Path::new(""));
    let mut file = File { source, folder, exists, notes: &notes, doors: Vec::new() };
    let config = file.config(Table::root(&notes, tree.get_ref()));
    notes.close(source, config)
}

fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_LEN_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() > FILE_LEN_MAX {
        return Err(too_large());
    }
    String::from_utf8(bytes)
        .map_err(|e| format!("is not UTF-8 text: byte {} is none", e.utf8_error().valid_up_to()))
}

fn too_large() -> String {
    format!("is larger than {FILE_LEN_MAX} bytes")
}

/// One file while it is read.
pub(super) struct File<'n> {
    source: &'n Path,
    pub folder: &'n Path,
    pub exists: &'n dyn Fn(&Path) -> bool,
    pub notes: &'n Notes<'n>,
    /// Every door so far, to be held against the next.
    doors: Vec<Placed>,
}

/// A door, its key, and its offset in the file.
struct Placed {
    listen: Listen,
    key: &'static str,
    at: usize,
}

/// Where an inbound leads, and its offset in the file.
pub(super) type PlacedTarget = (Target, usize);

impl<'n> File<'n> {
    fn config(&mut self, mut root: Table<'n>) -> Read<Config> {
        let version = version(&mut root);
        let trust = self.identity(root.table("identity"));
        let domain = trust.as_ref().ok().map(|identity| &identity.trust_domain);
        let leaf = trust.as_ref().ok().map(|identity| identity.leaf.as_path());
        let device = self.device(root.table("device"), leaf, domain);
        let enrolment = self.enrolment(root.table("enrolment"), leaf, domain);
        let authority = root.table("authority");
        let authority_at = authority.at();
        let authority = self.authority(authority);
        let (peers, profile) = self.peers(root.table("peers"));
        if let (Ok(Some(_)), Ok(None)) = (&authority, &peers) {
            self.notes
                .absent(authority_at, "`[authority]` needs `[peers] listen`: no device could knock to join");
        }
        let channel = rooms::channel(root.table("channel"));
        let (inbounds, outbounds) = (root.tables("inbound"), root.tables("outbound"));
        let captures = root.tables("capture");
        let deaf = matches!(peers, Ok(None));
        purpose(&root, deaf, matches!(authority, Ok(None)), &inbounds, &outbounds);
        let (inbound, targets) = self.inbound(inbounds);
        let (outbound, mut doors) = self.outbound(outbounds, domain, captures.is_empty());
        doors.extend(self.capture(captures));
        let policy = self.policy(root.table("policy"));
        let audit = self.audit(root.table("audit"));
        // What is written while running lies in one place: beside the log.
        let state = audit.as_ref().ok().and_then(|audit| audit.dir.parent()).unwrap_or(self.folder);
        let behaviour = rooms::behaviour(root.table("behaviour"), self.folder, state);
        let console = self.admin(root.table("admin"));
        let limits = rooms::limits(root.table("limits"));
        let telemetry = rooms::log(root.table("log"));
        let drain_timeout = rooms::drain(root.table("drain"));

        self.no_clash();
        self.no_loop(&targets);
        root.finish();

        version?;
        let behaviour = behaviour?;
        let (pq, channel) = channel?;
        let inbound = inbound.into_iter().collect::<Read<_>>()?;
        let outbound = outbound.into_iter().collect::<Read<_>>()?;
        Ok(Config {
            identity: identity::Settings { pq, ..trust? },
            device: device?,
            authority: authority?,
            enrolment: enrolment?,
            policy: crate::policy::Settings {
                behaviour_needed: behaviour.mode == flow::Mode::Enforce,
                ..policy?
            },
            behaviour,
            audit: audit?,
            limits: limits?,
            channel: channel::Settings { listen: peers?, profile: profile?, ..channel },
            capture: doors.into_iter().collect::<Read<_>>()?,
            flow: flow::Settings { inbound, outbound, drain_timeout: drain_timeout? },
            console: console?,
            telemetry: telemetry?,
            source: self.source.to_owned(),
        })
    }

    /// Remembers a door.
    pub fn place(&mut self, listen: &Listen, key: &'static str, at: usize) {
        self.doors.push(Placed { listen: listen.clone(), key, at });
    }

    /// No two doors in one place.
    fn no_clash(&mut self) {
        self.doors.sort_by_key(|door| door.at);
        for (i, door) in self.doors.iter().enumerate() {
            let earlier = self.doors.iter().take(i).find(|other| doors::clash(&other.listen, &door.listen));
            if let Some(other) = earlier {
                let (key, place) = (door.key, shown(&door.listen));
                let message = match other.key == key {
                    true => format!("`{key}` is `{place}`, where another `{key}` listens already"),
                    false => format!("`{key}` is `{place}`, where `{}` listens already", other.key),
                };
                self.notes.wrong(door.at, message);
            }
        }
    }

    /// No inbound leads back to one of our own doors.
    fn no_loop(&self, targets: &[PlacedTarget]) {
        for (target, at) in targets {
            if let Some(door) = self.doors.iter().find(|door| doors::leads_to(target, &door.listen)) {
                let message = format!(
                    "`inbound.target` is `{target}`, this sidecar's own `{}`: a peer would be led in a circle; \
                     expected the address of the service",
                    door.key
                );
                self.notes.wrong(*at, message);
            }
        }
    }
}

fn version(root: &mut Table<'_>) -> Read<u64> {
    let value = root.need("version", "1")?;
    match value.count::<u64>(0..=u64::MAX)? {
        1 => Ok(1),
        other => Err(value.wrong(format!("is {other}, expected 1: this program reads no other version"))),
    }
}

/// The file must give this sidecar something to do.
fn purpose(root: &Table<'_>, deaf: bool, alone: bool, inbounds: &[Table<'_>], outbounds: &[Table<'_>]) {
    if inbounds.is_empty() && outbounds.is_empty() && alone {
        root.absent(
            "nothing to do: name a service of this host with `[peers] listen` and `[[inbound]]`, or one of a peer \
             with `[[outbound]]`",
        );
    }
    if let (Some(inbound), true) = (inbounds.first(), deaf) {
        inbound.absent("`[[inbound]]` needs `[peers] listen`: no peer could knock");
    }
}

fn shown(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix { path, .. } => format!("unix:{}", path.display()),
    }
}
