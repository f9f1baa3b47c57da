//! The Merkle tree over the entries (RFC 6962 §2.1), its tiles (C2SP tlog-tiles) and its proofs. Pure.

use ring::digest::{Context, SHA256};

/// A SHA-256 hash.
pub type Hash = [u8; HASH_LEN];

/// Bytes of a [`tyalias@Hash`].
pub const HASH_LEN: usize = 32;

/// Most hashes in one tile (tlog-tiles: height 8).
pub const TILE_WIDTH: usize = 256;

/// The hash of one entry: its line without the newline (RFC 6962 §2.1, prefix 0x00).
pub fn leaf_hash(line: &[u8]) -> Hash {
    hash(&[&[0x00], line])
}

/// The hash over two subtrees (RFC 6962 §2.1, prefix 0x01).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash(&[&[0x01], left, right])
}

/// The tree while it grows: per level, the hashes of the tile that is not full yet. At most 8 × 255 hashes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; gives the tiles that became full, lowest level first.
    pub fn push(&mut self, leaf: Hash) -> Vec<Tile> {
        self.size += 1;
        let mut full = Vec::new();
        let mut carried = Some(leaf);
        let mut level = 0;
        while let Some(hash) = carried.take() {
            if self.levels.len() <= level {
                self.levels.push(Vec::new());
            }
            let Some(row) = self.levels.get_mut(level) else { break };
            row.push(hash);
            if row.len() == TILE_WIDTH {
                let hashes = std::mem::take(row);
                carried = Some(perfect(&hashes));
                let index = (self.size >> shift(level)) - 1;
                full.push(Tile { level, index, hashes });
            }
            level += 1;
        }
        full
    }

    /// The root (RFC 6962 §2.1): of no leaves, the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut root: Option<Hash> = None;
        for row in &self.levels {
            // From the smallest perfect subtree, at the right end, to the largest.
            let mut end = row.len();
            while end > 0 {
                let width = 1 << end.trailing_zeros();
                let part = perfect(row.get(end - width..end).unwrap_or_default());
                root = Some(root.map_or(part, |right| node_hash(&part, &right)));
                end -= width;
            }
        }
        root.unwrap_or_else(|| hash(&[]))
    }

    /// The tiles that are not full, which a checkpoint of this size needs besides the full ones.
    pub fn partials(&self) -> Vec<Tile> {
        let rows = self.levels.iter().enumerate().filter(|(_, row)| !row.is_empty());
        rows.map(|(level, row)| Tile { level, index: self.size >> shift(level), hashes: row.clone() })
            .collect()
    }
}

/// One tile: up to 256 neighbouring hashes of level `8 × level` of the tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tile {
    /// 0 holds leaf hashes, 1 the roots of level 0 tiles, and so on.
    pub level: usize,
    /// The tile's place on its level.
    pub index: u64,
    /// 1..=256 hashes.
    pub hashes: Vec<Hash>,
}

impl Tile {
    /// Its path below the log's folder.
    pub fn path(&self) -> String {
        tile_path(self.level, self.index, self.hashes.len())
    }

    /// Its content.
    pub fn bytes(&self) -> Vec<u8> {
        self.hashes.concat()
    }
}

/// `tile/<level>/x001/x234/067`, and `.p/<width>` for a tile of fewer than 256 hashes (tlog-tiles, "Merkle Tree").
pub fn tile_path(level: usize, index: u64, width: usize) -> String {
    let mut name = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        name = format!("x{:03}/{name}", rest % 1000);
        rest /= 1000;
    }
    let partial = if width < TILE_WIDTH { format!(".p/{width}") } else { String::new() };
    format!("tile/{level}/{name}{partial}")
}

/// The paths of the tiles that are not full in a tree of `size` leaves: those of [`Tree::partials`].
pub fn partial_paths(size: u64) -> Vec<String> {
    let on_level = (0..8).map(|level| (level, size >> (8 * level)));
    let partial = on_level.filter(|(_, hashes)| hashes % TILE_WIDTH as u64 != 0);
    partial
        .map(|(level, hashes)| tile_path(level, hashes / 256, tile_width(level, hashes / 256, size)))
        .collect()
}

/// How many hashes tile `index` of `level` has in a tree of `size` leaves.
pub fn tile_width(level: usize, index: u64, size: u64) -> usize {
    let on_level = size.checked_shr(shift(level) - 8).unwrap_or(0);
    let left = on_level.saturating_sub(index.saturating_mul(TILE_WIDTH as u64));
    usize::try_from(left).unwrap_or(TILE_WIDTH).min(TILE_WIDTH)
}

/// The path from leaf `index` to the root of the first `size` leaves (RFC 6962 §2.1.1).
///
/// `read(level, index)` gives the hash at `index` of tile level `level`.
///
/// # Errors
/// [`ProofError::Range`] when the tree has no such leaf; [`ProofError::Missing`] when `read` has not the hash.
pub fn inclusion_proof<R>(index: u64, size: u64, read: &mut R) -> Result<Vec<Hash>, ProofError>
where
    R: FnMut(usize, u64) -> Option<Hash>,
{
    if index >= size {
        return Err(ProofError::Range);
    }
    let (mut low, mut high) = (0, size);
    let mut proof = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            proof.push(range_hash(middle, high, read)?);
            high = middle;
        } else {
            proof.push(range_hash(low, middle, read)?);
            low = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Proof that the first `old` of `size` leaves are the tree of size `old` (RFC 6962 §2.1.2).
///
/// # Errors
/// [`ProofError::Range`] unless `1 <= old <= size`; [`ProofError::Missing`] when `read` has not a hash.
pub fn consistency_proof<R>(old: u64, size: u64, read: &mut R) -> Result<Vec<Hash>, ProofError>
where
    R: FnMut(usize, u64) -> Option<Hash>,
{
    if old == 0 || old > size {
        return Err(ProofError::Range);
    }
    let (mut low, mut high) = (0, size);
    let mut proof = Vec::new();
    while high != old {
        let middle = low + split(high - low);
        if old <= middle {
            proof.push(range_hash(middle, high, read)?);
            high = middle;
        } else {
            proof.push(range_hash(low, middle, read)?);
            low = middle;
        }
    }
    if low > 0 {
        // The old tree ends inside: its last subtree is no root the verifier knows.
        proof.push(range_hash(low, high, read)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks an inclusion proof (RFC 9162 §2.1.3.2).
pub fn inclusion_holds(index: u64, size: u64, leaf: &Hash, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for part in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(part, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, part);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Checks a consistency proof (RFC 9162 §2.1.4.2). An empty old tree is part of every tree.
pub fn consistency_holds(old: u64, old_root: &Hash, size: u64, root: &Hash, proof: &[Hash]) -> bool {
    if old == 0 {
        return proof.is_empty() && *old_root == Tree::default().root();
    }
    if old >= size {
        return old == size && proof.is_empty() && old_root == root;
    }
    let mut parts = proof.iter();
    let (mut node, mut last) = (old - 1, size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let first = if old.is_power_of_two() { Some(old_root) } else { parts.next() };
    let Some(first) = first else { return false };
    let (mut old_hash, mut hash) = (*first, *first);
    for part in parts {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(part, &old_hash);
            hash = node_hash(part, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, part);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && hash == *root
}

/// Why there is no proof.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProofError {
    /// The tree is smaller than asked for.
    #[error("the tree has no such leaf")]
    Range,
    /// A tile is missing.
    #[error("a hash is missing from the tiles")]
    Missing,
}

/// SHA-256 by ring: twice as fast as `sha2` here, and fast in debug builds too, where tests hash a lot.
fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; HASH_LEN];
    hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// The root over leaves `low..high`, from hashes of tiles.
fn range_hash<R>(low: u64, high: u64, read: &mut R) -> Result<Hash, ProofError>
where
    R: FnMut(usize, u64) -> Option<Hash>,
{
    let width = high - low;
    if !width.is_power_of_two() {
        let middle = low + split(width);
        return Ok(node_hash(&range_hash(low, middle, read)?, &range_hash(middle, high, read)?));
    }
    let log = width.trailing_zeros();
    let level = usize::try_from(log / 8).unwrap_or(0);
    let first = low >> (log - log % 8);
    let hashes: Option<Vec<_>> = (first..first + (1 << (log % 8))).map(|i| read(level, i)).collect();
    hashes.map(|h| perfect(&h)).ok_or(ProofError::Missing)
}

/// The root over a power of two of hashes.
fn perfect(hashes: &[Hash]) -> Hash {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        let pairs = row.chunks_exact(2);
        row = pairs.filter_map(|p| if let [l, r] = p { Some(node_hash(l, r)) } else { None }).collect();
    }
    row.first().copied().unwrap_or_default()
}

/// The largest power of two below `width`, which is at least 2.
fn split(width: u64) -> u64 {
    1 << (63 - (width - 1).leading_zeros())
}

/// Leaves under one tile of `level`, as a power of two.
fn shift(level: usize) -> u32 {
    u32::try_from(8 * (level + 1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
