//! Appends entries to a Merkle log, proves it whole, answers questions.
//!
//! The log is a folder: segments of JSON lines (`entries-<first number>.jsonl`), the tiles of a Merkle tree over
//! them (C2SP tlog-tiles, RFC 6962) and a signed `checkpoint` (C2SP tlog-checkpoint). One thread writes, in this
//! order: lines, tiles, checkpoint, each synced before the next.
//!
//! What the chain shows, and what not: every change, removal or insertion below the checkpoint is found at the next
//! start and by `countersign audit verify`. Someone who can write the folder *and* keeps an older checkpoint with
//! its tiles can roll the whole log back to it; only a checkpoint seen elsewhere shows that
//! (`audit verify --checkpoint FILE`), so the log prints its checkpoint at start and stop. Someone who also reads the
//! signing key can write another history; again only a checkpoint seen elsewhere shows it.

mod aggregate;
mod chain;
mod entry;
mod key;
mod log;
mod note;
mod open;
mod query;
mod segment;
mod settings;
mod store;
#[cfg(test)]
mod support;
mod verify;
mod writer;

pub use aggregate::{Aggregate, Verdict};
pub use chain::{
    HASH_LEN, Hash, ProofError, TILE_WIDTH, Tile, Tree, consistency_holds, consistency_proof,
    inclusion_holds, inclusion_proof, leaf_hash, node_hash, partial_paths, tile_path, tile_width,
};
pub use entry::{Entry, Kind, Line, LineError, Source, parse_line};
pub use key::{KeyError, public_path};
pub use log::{Log, Refused, Status};
pub use note::{Checkpoint, NAME_LEN_MAX, NOTE_LEN_MAX, NoteError, Verifier};
pub use open::{OpenError, Opened};
pub use query::{FOUND_MAX, Follow, QueryError, Row, TAIL_MAX, Wanted, tail, why};
pub use segment::{Ending, Lines, READ_LINE_MAX, parse_segment};
pub use settings::*;
pub use verify::{Cut, Findings, Gap, Place, Tampering, VerifyError, check, read_checkpoint};
