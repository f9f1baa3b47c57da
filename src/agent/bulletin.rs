//! What an authority has to tell: read from its folders whenever they change, and told to every device that waits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use super::build::StartError;
use super::join::{Desk, off_the_runtime};
use super::records::{RECORDS_MAX, open_by_keys};
use crate::audit::{Entry, Kind, Source};
use crate::channel::{
    Barred, Blob, NEWS_ERRAND, NEWS_WAIT_MAX, NewsAnswer, NewsAsk, NewsDigests, PART_ERRAND, PART_LEN,
    PartAsk, RENEW_ERRAND, RenewAnswer, Session, Standings, decode_renew,
};
use crate::device::{RECORD_LEN_MAX, Status};
use crate::flow;
use crate::identity::authority::{self, Settings};
use crate::identity::{CRL_FILE_MAX, PEM_FILE_MAX, crl_next_update, issuer_keys, read_file};
use crate::model::{DeviceName, Reason, Refusal, SpiffeId, Timestamp};

/// Everything that is distributed, as it stands at one moment.
#[derive(Debug, Default)]
pub(super) struct Bulletin {
    pub crl: Bytes,
    pub bundle: Bytes,
    pub issuers: Bytes,
    pub standings: Bytes,
    pub digests: NewsDigests,
    /// The version of each device's record.
    versions: HashMap<SpiffeId, u64>,
}

impl Bulletin {
    fn blob(&self, blob: Blob) -> &Bytes {
        match blob {
            Blob::Crl => &self.crl,
            Blob::Bundle => &self.bundle,
            Blob::Issuers => &self.issuers,
            Blob::Standings => &self.standings,
        }
    }

    fn is_news_to(&self, id: &SpiffeId, ask: &NewsAsk) -> bool {
        let version = self.versions.get(id).copied().unwrap_or(0);
        self.digests != ask.has || (version > 0 && version != ask.record_version)
    }
}

/// Where the bulletin hangs, and who waits before it.
pub(super) struct Board {
    desk: Arc<Desk>,
    current: watch::Receiver<Arc<Bulletin>>,
    waiting: Semaphore,
}

/// Ends the thread that writes the bulletin when dropped.
pub(super) struct Announcer(Option<(SyncSender<()>, std::thread::JoinHandle<()>)>);

impl Drop for Announcer {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// Reads the folders for the first time and keeps looking at them.
pub(super) fn open(desk: &Arc<Desk>, now: Timestamp) -> Result<(Arc<Board>, Announcer), StartError> {
    let mut reader = Reader::new(desk.settings.clone());
    let first =
        reader.read(now).map_err(|e| StartError(vec![format!("`[authority]` cannot be opened: {e}")]))?;
    let (send, current) = watch::channel(Arc::new(first));
    let (stop, stopped) = sync_channel(0);
    let looker = Arc::clone(desk);
    let thread = std::thread::Builder::new()
        .name("announcer".into())
        .spawn(move || announce(&looker, reader, &send, &stopped))
        .map_err(|e| StartError(vec![format!("the announcer's thread: {e}")]))?;
    let board = Board { desk: Arc::clone(desk), current, waiting: Semaphore::new(NEWS_WAITING_MAX) };
    Ok((Arc::new(board), Announcer(Some((stop, thread)))))
}

impl Board {
    /// The bulletin, and every one after it.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Bulletin>> {
        self.current.clone()
    }

    /// Does what a device asks on its session; `None` when `name` is none of ours.
    pub async fn errand(&self, session: &Session, name: &str, body: &[u8]) -> Option<Result<Bytes, Refusal>> {
        match name {
            NEWS_ERRAND => Some(self.news(session, body).await),
            PART_ERRAND => Some(self.part(session, body)),
            RENEW_ERRAND => Some(self.renew(session, body).await),
            _ => None,
        }
    }

    async fn news(&self, session: &Session, body: &[u8]) -> Result<Bytes, Refusal> {
        let ask = NewsAsk::decode(body)
            .map_err(|e| self.refuse(session, NEWS_ERRAND, Reason::NewsMalformed, &e.to_string()))?;
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(self.refuse(session, NEWS_ERRAND, Reason::NewsLimited, ""));
        };
        let id = session.peer.id();
        let mut current = self.current.clone();
        let told = current.wait_for(|bulletin| bulletin.is_news_to(id, &ask));
        // Nothing new is an answer, too: the device learns that we are there, and what time it is.
        let _ = tokio::time::timeout(ask.wait.min(NEWS_WAIT_MAX), told).await;
        let bulletin = Arc::clone(&current.borrow());
        let newer = bulletin.versions.get(id).is_some_and(|version| *version != ask.record_version);
        let record = if newer { self.record(id) } else { String::new() };
        let lens = Blob::ALL.map(|blob| u32::try_from(bulletin.blob(blob).len()).unwrap_or(u32::MAX));
        let answer = NewsAnswer { at: Timestamp::now(), there: bulletin.digests, lens, record };
        Ok(answer.encode().into())
    }

    /// Read when somebody is to have it: a record is small, and there are many.
    fn record(&self, id: &SpiffeId) -> String {
        let name = id.device_name().unwrap_or_default();
        let path = self.desk.settings.records.join(format!("{name}.toml"));
        let bytes = read_file(&path, u64::try_from(RECORD_LEN_MAX).unwrap_or(u64::MAX)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn part(&self, session: &Session, body: &[u8]) -> Result<Bytes, Refusal> {
        let ask = PartAsk::decode(body)
            .map_err(|e| self.refuse(session, PART_ERRAND, Reason::NewsMalformed, &e.to_string()))?;
        let bulletin = Arc::clone(&self.current.borrow());
        if bulletin.digests.of(ask.blob) != ask.digest {
            return Ok(Bytes::new());
        }
        let blob = bulletin.blob(ask.blob);
        let at = usize::try_from(ask.offset).unwrap_or(usize::MAX).min(blob.len());
        Ok(blob.slice(at..blob.len().min(at.saturating_add(PART_LEN))))
    }

    async fn renew(&self, session: &Session, body: &[u8]) -> Result<Bytes, Refusal> {
        let csr = decode_renew(body)
            .map_err(|e| self.refuse(session, RENEW_ERRAND, Reason::NewsMalformed, &e.to_string()))?;
        let desk = Arc::clone(&self.desk);
        let facts = super::join::Asker::of(session);
        let granted = off_the_runtime(move |now| desk.renew(&facts, csr, now)).await?;
        let answer = RenewAnswer {
            chain_pem: granted.chain_pem,
            bundle_pem: granted.bundle_pem,
            record: granted.record,
        };
        Ok(answer.encode().into())
    }

    fn refuse(&self, session: &Session, name: &str, reason: Reason, detail: &str) -> Refusal {
        let now = Timestamp::now();
        let refusal = Refusal::new(flow::decision_id(now), reason).detail(detail);
        self.desk.rooms.metrics.refused(reason);
        let _ = self.desk.rooms.audit.append(Entry {
            device: Some(session.peer.id().clone()),
            source: Some(Source::Ip(session.remote.ip())),
            session: Some(session.id.to_string().into()),
            target: Some(format!("errand {name}").into()),
            ..Entry::refused(now, &refusal)
        });
        refusal
    }
}

/// Looks at the folders, signs the lists anew before they expire, and hangs out what changed.
fn announce(desk: &Desk, mut reader: Reader, send: &watch::Sender<Arc<Bulletin>>, stopped: &Receiver<()>) {
    let mut tried: Option<Instant> = None;
    let mut failed = String::new();
    loop {
        match stopped.recv_timeout(LOOK_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Timestamp::now();
        let crl = Arc::clone(&send.borrow()).crl.clone();
        let due = crl_next_update(&crl).is_ok_and(|end| end.since(now) < desk.settings.crl_ttl / 2);
        if due && tried.is_none_or(|at| at.elapsed() >= REFRESH_EVERY) {
            tried = Some(Instant::now());
            refresh(desk, now);
        }
        if !reader.changed() {
            continue;
        }
        match reader.read(now) {
            Ok(bulletin) => {
                failed.clear();
                let _ = send.send(Arc::new(bulletin));
            }
            // A command is at work; what hangs there stays until it is done.
            Err(e) => {
                reader.forget();
                if e != failed {
                    tracing::error!(
                        "what the authority has to tell cannot be read, devices hear nothing new: {e}"
                    );
                    failed = e;
                }
            }
        }
    }
}

fn refresh(desk: &Desk, now: Timestamp) {
    let (reason, said) = match authority::refresh_crl(&desk.settings.ca, desk.settings.crl_ttl, now) {
        Ok(next) => (None, format!("the revocation lists were signed anew, good until {next}")),
        Err(e) => (Some(Reason::Internal), format!("the revocation lists cannot be signed anew: {e}")),
    };
    let entry = Entry { reason, detail: Some(said.as_str().into()), ..Entry::new(now, Kind::Reload) };
    let _ = desk.rooms.audit.append(Entry { decision: Some(flow::decision_id(now)), ..entry });
    match reason {
        None => tracing::info!("{said}"),
        Some(_) => tracing::error!("{said}"),
    }
}

/// Reads the folders; of records only those that changed.
struct Reader {
    settings: Settings,
    seen: Vec<Stamp>,
    /// The keys that the records were held against.
    keys: Vec<Vec<u8>>,
    records: HashMap<PathBuf, Row>,
}

/// What a record's file said when it was read.
struct Row {
    stamp: Stamp,
    /// Whose it is, and its version; `None` when nobody would believe it.
    version: Option<(SpiffeId, u64)>,
    barred: Option<Barred>,
}

/// Tells whether a file or a folder is the same as before.
type Stamp = Option<(u64, Option<SystemTime>, u64)>;

impl Reader {
    fn new(settings: Settings) -> Self {
        Self { settings, seen: Vec::new(), keys: Vec::new(), records: HashMap::new() }
    }

    /// Whether anything is another than when it was read last.
    fn changed(&self) -> bool {
        self.stamps() != self.seen
    }

    fn forget(&mut self) {
        self.seen.clear();
    }

    fn stamps(&self) -> Vec<Stamp> {
        let Settings { ca, records, .. } = &self.settings;
        let files = ["crl.pem", "bundle.pem", "issuing.pem", "issuing-cross.pem", "earlier"];
        files.iter().map(|file| stamp(&ca.join(file))).chain([stamp(records)]).collect()
    }

    fn read(&mut self, now: Timestamp) -> Result<Bulletin, String> {
        let stamps = self.stamps();
        let ca = &self.settings.ca;
        let file = |name: &str, max| read_file(&ca.join(name), max).map_err(|e| e.to_string());
        let (crl, bundle) = (file("crl.pem", CRL_FILE_MAX)?, file("bundle.pem", PEM_FILE_MAX)?);
        let issuers = authority::issuers(ca, now).map_err(|e| e.to_string())?;
        let keys =
            issuer_keys(&String::from_utf8_lossy(&bundle), &issuers, now).map_err(|e| e.to_string())?;
        if keys != self.keys {
            self.keys.clone_from(&keys);
            self.records.clear();
        }
        self.read_records(&keys)?;
        let mut barred: Vec<_> = self.records.values().filter_map(|row| row.barred.clone()).collect();
        barred.sort_by(|a, b| a.id.cmp(&b.id));
        barred.dedup_by(|a, b| a.id == b.id);
        let standings = Standings(barred).to_text();
        self.seen = stamps;
        let digests = NewsDigests {
            crl: Sha256::digest(&crl).into(),
            bundle: Sha256::digest(&bundle).into(),
            issuers: Sha256::digest(&issuers).into(),
            standings: Sha256::digest(&standings).into(),
        };
        Ok(Bulletin {
            crl: crl.into(),
            bundle: bundle.into(),
            issuers: issuers.into(),
            standings: standings.into(),
            digests,
            versions: self.records.values().filter_map(|row| row.version.clone()).collect(),
        })
    }

    fn read_records(&mut self, keys: &[Vec<u8>]) -> Result<(), String> {
        let dir = &self.settings.records;
        let mut found = HashMap::new();
        let entries = match std::fs::read_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.records.clear();
                return Ok(());
            }
            read => read.map_err(|e| format!("`{}`: {e}", dir.display()))?,
        };
        for entry in entries {
            let path = entry.map_err(|e| format!("`{}`: {e}", dir.display()))?.path();
            let name = path.file_stem().and_then(|n| n.to_str()).and_then(|n| n.parse::<DeviceName>().ok());
            if name.is_none() || path.extension().is_none_or(|e| e != "toml") {
                continue;
            }
            if found.len() >= RECORDS_MAX {
                return Err(format!("`{}` holds more than {RECORDS_MAX} records", dir.display()));
            }
            let stamp = stamp(&path);
            let row = match self.records.remove(&path) {
                Some(row) if row.stamp == stamp => row,
                _ => read_record(&path, stamp, keys),
            };
            found.insert(path, row);
        }
        self.records = found;
        Ok(())
    }
}

fn read_record(path: &Path, stamp: Stamp, keys: &[Vec<u8>]) -> Row {
    let record = match open_by_keys(path, keys) {
        Ok(record) => record,
        Err(e) => {
            tracing::error!("a device record cannot be used: {e}");
            None
        }
    };
    let Some(record) = record else { return Row { stamp, version: None, barred: None } };
    let version = Some((record.id.clone(), record.version));
    let barred = (record.status != Status::Active).then(|| Barred {
        id: record.id.clone(),
        version: record.version,
        status: record.status,
    });
    Row { stamp, version, barred }
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok(), meta.ino()))
}

/// Most devices that wait for news at once.
pub(super) const NEWS_WAITING_MAX: usize = 16_384;
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time between two tries to sign the lists anew.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
