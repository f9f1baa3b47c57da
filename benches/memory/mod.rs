//! Ends of a flow that live in memory, and one flow between them: the data path without the kernel.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign::flow::{Listener, Seat, Table, Talk, Way, Ways, relay};
use countersign::limits::{Governor, Settings, Slot};
use countersign::model::{
    DecisionId, DeviceFacts, Direction, Facts, Risk, Score, SessionFacts, Tier, Timestamp, Transport,
};
use countersign::net::{BoxStream, Chunks, EndKind, ReadHalf, StreamError, WriteHalf};
use countersign::policy::{Bundle, Permit, Source};

/// What one device of `rules` other rules' devices wants.
pub fn facts() -> Facts {
    Facts {
        device: DeviceFacts {
            id: "spiffe://example.org/device/web-7".parse().unwrap(),
            tier: Tier::None,
            score: Score::default(),
        },
        service: "orders-7".parse().unwrap(),
        session: SessionFacts {
            direction: Direction::Inbound,
            hour: 12,
            lease_age_s: 10,
            pq: true,
            risk: Risk::default(),
            transport: Transport::H2,
            uid: None,
        },
    }
}

/// A bundle of so many permits, one for each device and service; `facts` is let in by one of them.
pub fn bundle(rules: usize, cache_max: usize) -> Bundle {
    let text: String = (0..rules)
        .map(|n| {
            format!(
                "@id(\"orders-{n}\")\n@reason(\"bench\")\npermit(principal == \
                 Device::\"spiffe://example.org/device/web-{n}\", action == Action::\"connect\", \
                 resource == Service::\"orders-{n}\") when {{ context.pq }};\n"
            )
        })
        .collect();
    Bundle::from_sources(&[Source::new("10-bench.cedar", &text)], cache_max, now()).unwrap()
}

/// A moment.
pub fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

/// One flow, let in, seated and paid for, that can be relayed any number of times.
pub struct Flow {
    bundle: Bundle,
    seat: Seat,
    slot: Slot,
    runtime: tokio::runtime::Runtime,
}

impl Flow {
    /// Lets one in.
    pub fn new() -> Self {
        let decision = DecisionId::new(now(), [7; 10]);
        let seat =
            Table::default().register(decision, facts(), "bench", None, Duration::from_secs(60), now());
        let slot = Governor::new(&limits()).admit(&facts().device.id, Instant::now()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { bundle: bundle(10, 16), seat, slot, runtime }
    }

    /// Relays `count` chunks of `len` bytes one way. The far end takes what is offered, `burst` chunks at a time.
    pub fn relay(&self, count: usize, len: usize, burst: usize) {
        let near = BoxStream { read: Box::new(Spring::new(count, len)), write: Box::new(Drain::new(1)) };
        let far = BoxStream { read: Box::new(Spring::new(0, 1)), write: Box::new(Drain::new(burst)) };
        let mut ways = Ways::new(self.permit(), near, far);
        let end = self.runtime.block_on(relay(&mut ways, &self.seat, &self.slot, &Deaf));
        assert!(matches!(end, countersign::flow::End::Closed), "{end:?}");
    }

    fn permit(&self) -> Permit {
        self.bundle.decide(&facts(), DecisionId::new(now(), [7; 10])).into_result().unwrap()
    }
}

/// The shipped limits, but for the byte rate: it is the relay that is measured.
fn limits() -> Settings {
    let most = |n: u32| n.try_into().unwrap();
    Settings {
        knocks_per_second: most(50),
        knocks_burst: most(200),
        sources_max: 65_536,
        handshakes_max: 512,
        flows_per_second: most(20_000),
        flows_burst: most(20_000),
        flows_per_device_max: 20_000,
        flows_max: 50_000,
        bytes_per_second: (1 << 40).try_into().unwrap(),
        devices_max: 65_536,
        memory_max: 2 << 30,
        descriptors_reserve: 64,
    }
}

/// Gives so many chunks, pending once after each [`BATCH`], as a socket does when it ran dry.
struct Spring {
    left: usize,
    until_dry: usize,
    chunk: Arc<[u8]>,
}

impl Spring {
    fn new(count: usize, len: usize) -> Self {
        Self { left: count, until_dry: BATCH, chunk: vec![7; len].into() }
    }
}

impl ReadHalf for Spring {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        if self.until_dry == 0 {
            self.until_dry = BATCH;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.left -= 1;
        self.until_dry -= 1;
        Poll::Ready(Ok(Some(Bytes::from_owner(Arc::clone(&self.chunk)))))
    }

    fn release(&mut self, _len: usize) {}

    fn undelivered_max(&self) -> usize {
        usize::MAX
    }
}

/// Takes everything; pending every other time when `burst` chunks went.
struct Drain {
    burst: usize,
    left: usize,
}

impl Drain {
    fn new(burst: usize) -> Self {
        Self { burst, left: burst }
    }
}

impl WriteHalf for Drain {
    fn poll_send(&mut self, cx: &mut Context<'_>, chunks: &mut Chunks) -> Poll<Result<usize, StreamError>> {
        if self.left == 0 {
            self.left = self.burst;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut sent = 0;
        while self.left > 0 {
            let Some(chunk) = chunks.take_front(usize::MAX) else { break };
            sent += std::hint::black_box(chunk).len();
            self.left -= 1;
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, _kind: EndKind) {}
}

/// Chunks that come before the source runs dry.
const BATCH: usize = 8;

/// Hears nothing and slows nobody down.
struct Deaf;

impl Listener for Deaf {
    fn moved(&self, _: Way, _: usize) -> Option<std::time::Duration> {
        None
    }

    fn may_go(&self, _: &mut Talk, _: Way, _: &[u8]) -> bool {
        true
    }
}
