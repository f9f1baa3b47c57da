//! Tests of the tree: known answers, an oracle by other hands, and properties.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use tlog_tiles::tlog;

use super::*;

/// A tree with `leaves`, and every tile hash it ever had.
fn grow(leaves: &[Vec<u8>]) -> (Tree, HashMap<(usize, u64), Hash>) {
    let mut tree = Tree::default();
    let mut tiles = Vec::new();
    for leaf in leaves {
        tiles.extend(tree.push(leaf_hash(leaf)));
    }
    tiles.extend(tree.partials());
    let mut hashes = HashMap::new();
    for tile in tiles {
        for (offset, hash) in (0u64..).zip(&tile.hashes) {
            hashes.insert((tile.level, tile.index * 256 + offset), *hash);
        }
    }
    (tree, hashes)
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| i.to_string().into_bytes()).collect()
}

/// The oracle: stored hashes of Go's sumdb layout, by another implementation.
struct Oracle(Vec<tlog::Hash>);

impl tlog::HashReader for Oracle {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|i| self.0[usize::try_from(*i).unwrap()]).collect())
    }
}

fn oracle(leaves: &[Vec<u8>]) -> Oracle {
    let mut oracle = Oracle(Vec::new());
    for (n, leaf) in (0u64..).zip(leaves) {
        let more = tlog::stored_hashes(n, leaf, &oracle).unwrap();
        oracle.0.extend(more);
    }
    oracle
}

#[test]
fn the_known_roots_of_certificate_transparency_come_out() {
    // The eight leaves and roots used by every RFC 6962 implementation's tests.
    let leaves =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut tree = Tree::default();
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(HEXLOWER.encode(&tree.root()), empty);
    for (leaf, root) in leaves.iter().zip(roots) {
        tree.push(leaf_hash(&HEXLOWER.decode(leaf.as_bytes()).unwrap()));
        assert_eq!(HEXLOWER.encode(&tree.root()), root);
    }
}

#[test]
fn tile_paths_are_those_of_the_specification() {
    assert_eq!(tile_path(0, 1_234_067, 256), "tile/0/x001/x234/067");
    assert_eq!(tile_path(1, 0, 5), "tile/1/000.p/5");
    for (level, index, width) in [(0u8, 999u64, 256u32), (2, 1000, 1), (3, 273_000, 255), (0, 67, 256)] {
        let theirs = tlog_tiles::Tile::new(8, level, index, width, false).path();
        let ours = tile_path(usize::from(level), index, usize::try_from(width).unwrap());
        // Theirs names the height too, as Go's sumdb does.
        assert_eq!(ours, theirs.replacen("tile/8/", "tile/", 1));
    }
    assert_eq!([0, 255, 256, 257].map(|size| tile_width(0, 0, size)), [0, 255, 256, 256]);
    assert_eq!([255, 256, 70_000].map(|size| tile_width(1, 0, size)), [0, 1, 256]);
}

#[test]
fn a_tree_of_three_levels_agrees_with_the_oracle() {
    let leaves = numbered(65_536 + 300);
    let (tree, hashes) = grow(&leaves);
    let oracle = oracle(&leaves);
    let size = tree.size();
    assert_eq!(tree.root(), tlog::tree_hash(size, &oracle).unwrap().0);
    let mut read = |level, index| hashes.get(&(level, index)).copied();
    for index in [0, 255, 256, 65_535, 65_536, size - 1] {
        let proof = inclusion_proof(index, size, &mut read).unwrap();
        let theirs = tlog::prove_record(size, index, &oracle).unwrap();
        assert_eq!(proof, theirs.iter().map(|h| h.0).collect::<Vec<_>>());
    }
    for old in [1, 255, 256, 257, 65_536, 65_537, size] {
        let proof = consistency_proof(old, size, &mut read).unwrap();
        let theirs = tlog::prove_tree(size, old, &oracle).unwrap();
        assert_eq!(proof, theirs.iter().map(|h| h.0).collect::<Vec<_>>());
    }
}

#[test]
fn a_proof_beyond_the_tree_is_refused() {
    let mut none = |_: usize, _: u64| None;
    assert_eq!(inclusion_proof(3, 3, &mut none), Err(ProofError::Range));
    assert_eq!(consistency_proof(0, 3, &mut none), Err(ProofError::Range));
    assert_eq!(consistency_proof(4, 3, &mut none), Err(ProofError::Range));
    assert_eq!(inclusion_proof(0, 3, &mut none), Err(ProofError::Missing));
    assert!(!inclusion_holds(3, 3, &[0; 32], &[], &[0; 32]));
    assert!(!consistency_holds(4, &[0; 32], 3, &[0; 32], &[]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn roots_and_proofs_agree_with_the_oracle_and_a_bent_proof_fails(
        size in 1usize..700, at in 0usize..700, old in 1usize..700, bend in 0usize..700,
    ) {
        let (at, old) = (at % size, 1 + old % size);
        let leaves = numbered(size);
        let (tree, hashes) = grow(&leaves);
        let oracle = oracle(&leaves);
        let (n, i, m) = (size as u64, at as u64, old as u64);
        prop_assert_eq!(tree.root(), tlog::tree_hash(n, &oracle).unwrap().0);
        prop_assert_eq!(tree.partials().iter().map(Tile::path).collect::<Vec<_>>(), partial_paths(n));
        let mut read = |level, index| hashes.get(&(level, index)).copied();

        let mut proof = inclusion_proof(i, n, &mut read).unwrap();
        let theirs: Vec<_> = tlog::prove_record(n, i, &oracle).unwrap().iter().map(|h| h.0).collect();
        prop_assert_eq!(&proof, &theirs);
        let leaf = leaf_hash(&leaves[at]);
        prop_assert!(inclusion_holds(i, n, &leaf, &proof, &tree.root()));
        prop_assert!(!inclusion_holds(i, n, &leaf_hash(b"x"), &proof, &tree.root()));
        if !proof.is_empty() {
            let which = bend % proof.len();
            proof[which][0] ^= 1;
            prop_assert!(!inclusion_holds(i, n, &leaf, &proof, &tree.root()));
        }

        let mut proof = consistency_proof(m, n, &mut read).unwrap();
        let theirs: Vec<_> = tlog::prove_tree(n, m, &oracle).unwrap().iter().map(|h| h.0).collect();
        prop_assert_eq!(&proof, &theirs);
        let (before, _) = grow(&leaves[..old]);
        prop_assert!(consistency_holds(m, &before.root(), n, &tree.root(), &proof));
        prop_assert!(!consistency_holds(m, &[9; 32], n, &tree.root(), &proof));
        if !proof.is_empty() {
            let which = bend % proof.len();
            proof[which][0] ^= 1;
            prop_assert!(!consistency_holds(m, &before.root(), n, &tree.root(), &proof));
        }
    }
}
