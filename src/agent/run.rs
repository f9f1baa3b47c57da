//! A sidecar's life: build, open, serve, reload, drain.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::app::{self, App};
use super::attest;
use super::build::{self, Bound, Built, StartError};
use super::bulletin::Announcer;
use super::doors::Doorkeeper;
use super::drain;
use super::house::Inside;
use super::member::{self, Member};
use super::remember::{self, Keeping};
use super::take::Taker;
use super::watch::{self, Orders, Watchman};
use crate::audit::{Entry, Kind};
use crate::capture;
use crate::channel::{self, PeersDoor};
use crate::config::{Config, Membership};
use crate::console;
use crate::flow;
use crate::identity::{LeafSigner, Places};
use crate::limits;
use crate::model::Timestamp;
use crate::net::{Spread, Workers};

/// How a sidecar's life ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// Somebody asked it to.
    Asked,
    /// The app it was started with ended with this code.
    App(u8),
}

/// Runs a sidecar until it is told to stop, or its app ends.
///
/// # Errors
/// [`StartError`] with everything that is in the way of a start; nothing was opened then.
pub async fn run(config: Config, app: Option<App>) -> Result<Exit, StartError> {
    // Best effort: the pressure gauge keeps count of what there is.
    let _ = limits::raise_descriptors();
    let now = Timestamp::now();
    tracing::info!(config = %config.source.display(), version = env!("CARGO_PKG_VERSION"), "starting");
    let places = Places::new(&config.identity, &config.device.record);
    let membership = config.enrolment.find().map_err(|e| StartError(vec![e]))?;
    // What a crash left half done, before anything is read.
    match places.finish() {
        Ok(true) => tracing::warn!("a renewal was interrupted, and is finished now"),
        Ok(false) => {}
        Err(e) => return Err(StartError(vec![e.to_string()])),
    }
    if let (Some(whom), Some(leaf)) = (&membership, places.lapsed(now)) {
        let told = recovered(whom, &places, &leaf).await?;
        let Some(told) = told else { return Ok(Exit::Asked) };
        tracing::info!("certificate {told}");
    }
    let now = Timestamp::now();
    // An authority hears from itself.
    let membership = membership.filter(|_| config.authority.is_none());
    let built = build::build(&config, membership.as_ref(), &places, now)?;
    let bound = build::bind(&config)?;
    let failed = |what: &str, e: std::io::Error| StartError(vec![format!("{what}: {e}")]);
    let mut term = signal(SignalKind::terminate()).map_err(|e| failed("SIGTERM", e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| failed("SIGINT", e))?;
    let mut hup = signal(SignalKind::hangup()).map_err(|e| failed("SIGHUP", e))?;

    let rooms = Arc::clone(&built.rooms);
    started(&config, &built, now)?;
    let (orders, watchman) = watch::start(Watchman {
        rooms: Arc::clone(&rooms),
        identity: built.identity.clone(),
        attester: built.attester.clone(),
        device: config.device.clone(),
        config_digest: attest::digest(&config.to_toml()),
        sessions: built.sessions.clone(),
        policy_dir: config.policy.dir.clone(),
        contact: Arc::clone(&built.contact),
    })
    .map_err(|e| failed("the watchman's thread", e))?;
    let keeping = remember::start(Arc::clone(&rooms), Arc::clone(&built.memory))
        .map_err(|e| failed("the memory's thread", e))?;
    let (asked, mut drain_asked) = mpsc::channel(1);
    let own = built.identity.id().clone();
    let drain = built.drain.clone();
    let workers = Workers::per_core().map_err(|e| failed("the workers' threads", e))?;
    let taker = Arc::new(Taker {
        identity: built.identity.clone(),
        places,
        contact: Arc::clone(&built.contact),
        rooms: Arc::clone(&rooms),
        orders: orders.clone(),
    });
    let board = built.authority.as_ref().map(|(_, board, _)| board.subscribe());
    let draining = drain.subscribe();
    let _announcer = open(&config, built, bound, &orders, asked, workers.spread())?;
    match (board, membership) {
        (Some(board), _) => drop(tokio::spawn(member::keep_own(taker, board, draining))),
        (None, Some(whom)) => {
            drop(tokio::spawn(member::keep(Arc::new(Member { whom, taker, drain: draining }))));
        }
        (None, None) => {}
    }
    tracing::info!(id = %own, "ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let mut child = match app.map(|a| a.start()).transpose() {
        Ok(child) => child,
        Err(e) => return Err(failed("the app could not be started", e)),
    };
    let exit = loop {
        tokio::select! {
            _ = term.recv() => break Exit::Asked,
            _ = interrupt.recv() => break Exit::Asked,
            _ = drain_asked.recv() => break Exit::Asked,
            _ = hup.recv() => {
                let orders = orders.clone();
                tokio::task::spawn_blocking(move || orders.reload());
            }
            ended = app::ended(&mut child) => break Exit::App(app_code(ended)),
        }
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!(flows = rooms.table.len(), "draining");
    let _ = drain.send(true);
    let cut = drain::drain(&rooms, config.flow.drain_timeout).await;
    if exit == Exit::Asked {
        app::stop(&mut child, config.flow.drain_timeout).await;
    }
    orders.stop();
    let _ = tokio::task::spawn_blocking(move || watchman.join()).await;
    let _ = tokio::task::spawn_blocking(move || keeping.map(Keeping::stop)).await;
    let now = Timestamp::now();
    let _ = rooms.audit.append(Entry {
        decision: Some(flow::decision_id(now)),
        detail: Some(format!("{cut} flows were cut").into()),
        ..Entry::new(now, Kind::Stop)
    });
    let last = Arc::clone(&rooms);
    let closed = tokio::task::spawn_blocking(move || last.audit.close()).await;
    drop(workers);
    tracing::info!(cut, closed = closed.is_ok(), "stopped");
    Ok(exit)
}

/// Writes the start into the log and waits until it stands there.
fn started(config: &Config, built: &Built, now: Timestamp) -> Result<(), StartError> {
    let bundle = built.rooms.policy.current();
    let crl = match &config.identity.crl {
        Some(path) => path.display().to_string(),
        None => "none".to_string(),
    };
    let entry = Entry {
        decision: Some(flow::decision_id(now)),
        device: Some(built.identity.id().clone()),
        bundle: Some(bundle.digest().into()),
        detail: Some(
            format!("version {}, {} rules, crl {crl}", env!("CARGO_PKG_VERSION"), bundle.rules().len())
                .into(),
        ),
        ..Entry::new(now, Kind::Start)
    };
    built
        .rooms
        .audit
        .append(entry)
        .and_then(|()| built.rooms.audit.flush())
        .map_err(|e| StartError(vec![format!("the audit log does not take the start entry: {e}")]))?;
    if let Some(repaired) = &built.opened.repaired {
        tracing::warn!(repaired, "the audit log was left unfinished by a crash, and is mended");
    }
    if config.identity.crl.is_none() {
        tracing::warn!(
            "no revocation list is configured: a revoked certificate is believed until it expires"
        );
    }
    Ok(())
}

/// Serves at every door.
fn open(
    config: &Config,
    built: Built,
    bound: Bound,
    orders: &Orders,
    asked: mpsc::Sender<()>,
    workers: &Spread,
) -> Result<Option<Announcer>, StartError> {
    let Built {
        rooms,
        identity,
        attester,
        sessions,
        knocks,
        handshakes,
        drain,
        authority,
        contact,
        memory,
        ..
    } = built;
    let (join, board, announcer) = match authority {
        Some((door, board, announcer)) => (Some(door), Some(board), Some(announcer)),
        None => (None, None, None),
    };
    let keeper = Arc::new(Doorkeeper {
        rooms: Arc::clone(&rooms),
        own: identity.id().clone(),
        attester: attester.clone(),
        board,
        knocks,
        handshakes,
    });
    for (door, listener) in bound.all() {
        tracing::info!(door, %listener, "listening");
    }
    if let Some(listener) = bound.peers {
        let door = PeersDoor {
            identity: identity.clone(),
            settings: config.channel.clone(),
            attester: attester.clone(),
            sessions: sessions.clone(),
            keeper: keeper.clone(),
            join,
            workers: workers.clone(),
        };
        tokio::spawn(channel::serve(Arc::new(door), listener, drain.subscribe()));
    }
    for (door, worker) in bound.local.iter().flat_map(|d| workers.all().iter().map(move |w| (d, w))) {
        // An app's flow is carried by the worker that took it.
        let inside = worker.enter();
        let door = door.share().map_err(|e| StartError(vec![e.to_string()]))?;
        drop(inside);
        let (take, knock) = (Arc::clone(&keeper), Arc::clone(&keeper));
        let mut shut = drain.subscribe();
        worker.spawn(capture::serve(
            door,
            Arc::new(move |arrival| take.came(arrival)),
            Arc::new(move |source| knock.local_knock(source)),
            async move {
                let _ = shut.wait_for(|on| *on).await;
            },
        ));
    }
    let inside = Arc::new(Inside {
        rooms,
        identity,
        attester,
        sessions,
        orders: orders.clone(),
        asked,
        config: config.clone(),
        contact,
        memory,
        since: Timestamp::now(),
    });
    // The admin doors stay open while the sidecar drains: that is when people look.
    for listener in bound.admin_tcp.into_iter().chain([bound.admin_unix]) {
        let (inside, settings) = (inside.clone(), config.console.clone());
        tokio::spawn(
            async move { console::serve(listener, inside, &settings, std::future::pending()).await },
        );
    }
    Ok(announcer)
}

/// Waits for the next certificate of a device whose last one has expired; `None` when it is told to stop instead.
async fn recovered(
    whom: &Membership,
    places: &Places,
    leaf: &LeafSigner,
) -> Result<Option<String>, StartError> {
    let failed = |what: &str, e: std::io::Error| StartError(vec![format!("{what}: {e}")]);
    let mut term = signal(SignalKind::terminate()).map_err(|e| failed("SIGTERM", e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| failed("SIGINT", e))?;
    tokio::select! {
        _ = term.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
        told = member::recover_first(whom, places, leaf) => Ok(Some(told)),
    }
}

fn app_code(ended: std::io::Result<std::process::ExitStatus>) -> u8 {
    match ended {
        Ok(status) => status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1),
        Err(_) => 1,
    }
}
